"""One case: data made on the spot, the command line run on it in a forked child, and the judgement of how it ended."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from anchor_lightning.cli import main

Ending = Literal["goes on", "refused"]
SECONDS_PER_CASE = 60.0
"""A case that takes longer hangs."""
SECONDS_TO_REFUSE = 10.0
"""A refusal that computes for longer came too late; the wall clock counts what else the machine does."""
MOST_MEMORY = 8 * 2**30
"""Bytes that a case may take beside what the imports have."""
MAX_LINES = 12
"""A refusal that says more than this is not one clear message."""
COMPLAINT = "COMPLAINT: "
"""Start of the line by which a case's own check, made in the child, tells of a defect."""
NOISE = re.compile(
    r"^(usage: .*|Try .*|.*warnings\.warn\(.*|.*rank_zero_warn\(.*|\s*|GPU available.*|TPU available.*|HPU available.*"
    r"|💡.*|.*LOCAL_RANK.*|Seed set to.*|`Trainer.fit` stopped.*|.*The network starts from random.*)$"
)


def _nothing(data: Path) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Case:
    """One input and the ending that is expected of it.

    Args:
        group: Heading in the table.
        what: The input, in words.
        kind: Data set to start from, see `made.TEMPLATES`.
        prepare: Spoils the copy of the data set, whose folder it gets, and returns further words of the command line.
        ends: What has to happen.
        says: Pattern that the output must match: the file, option or count that is meant. Empty: nothing need be said.
        command: First words of the command line; the kind's words follow them.
        plain: Whether the kind's words are left out.
        early: A refusal must leave nothing behind; else the run has begun and its folder stays.
        before: Called in the child before the command line (limits, environment, mounts).
        after: Called in the child behind it; what it returns is a defect.
        makes: Files that must be there after work, as a glob; default the last checkpoint of `fit`, empty for none.
        seconds: A refusal must take less.
        exit_code: Expected exit code of a refusal; None for any but 0.
        skipped: Why the case cannot be run here; empty if it can.
    """

    group: str
    what: str
    kind: str = "voc"
    prepare: Callable[[Path], Sequence[str] | None] = _nothing
    ends: Ending = "refused"
    says: str = ""
    command: tuple[str, ...] = ("fit",)
    plain: bool = False
    early: bool = True
    before: Callable[[], None] | None = None
    after: Callable[[], str | None] | None = None
    makes: str = "runs/version_*/checkpoints/last.ckpt"
    seconds: float = SECONDS_TO_REFUSE
    exit_code: int | None = None
    skipped: str = ""


@dataclass
class Outcome:
    """What a case did.

    Args:
        code: Exit code; None where it was ended for taking too long.
        seconds: Wall clock, without the imports.
        busy: Seconds of the processor, workers that were waited for included.
        output: All that was printed.
        made: Files and folders that were not there before.
        changed: Files that were there before and are changed or gone.
        defects: What was wrong with it, empty if it ended as it should.
    """

    code: int | None
    seconds: float
    busy: float
    output: str
    made: list[str]
    changed: list[str]
    defects: list[str] = field(default_factory=list)

    @property
    def ending(self) -> str:
        """`goes on`, `refused`, `skipped` or `DEFECT`."""
        if self.defects:
            return "DEFECT"
        if self.code is None:
            return "skipped"
        return "goes on" if self.code == 0 else "refused"


def run_case(case: Case, folder: Path, templates: dict[str, Path], words_of: dict[str, Sequence[str]]) -> Outcome:
    """Runs a case in a folder of its own, which must not exist yet, and judges it."""
    if case.skipped:
        return Outcome(None, 0.0, 0.0, f"not run here: {case.skipped}", [], [])
    folder.mkdir(parents=True)
    data = folder / "data"
    if case.kind in templates:
        shutil.copytree(templates[case.kind], data, symlinks=True)
    else:
        data.mkdir()
    here = Path.cwd()
    os.chdir(folder)
    try:
        words = [*case.command, *(() if case.plain else words_of[case.kind]), *(case.prepare(data) or ())]
        outcome = _watch(case, words, folder)
    except Exception as error:  # one case that cannot be made must not end the others
        return Outcome(None, 0.0, 0.0, "", [], [], [f"the case itself failed: {error!r}"])
    finally:
        os.chdir(here)
    outcome.defects = judge(case, outcome, folder)
    return outcome


def _watch(case: Case, words: list[str], folder: Path) -> Outcome:
    before = _snapshot(folder)
    log = folder.with_suffix(".log")
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_child(case, words, log)
    code: int | None = None
    busy = 0.0
    while code is None and time.monotonic() < start + SECONDS_PER_CASE:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            code, busy = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        else:
            time.sleep(0.02)
    seconds = time.monotonic() - start
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # workers that it left behind, and itself where it hangs
    if code is None:
        os.waitpid(child, 0)
    after = _snapshot(folder)
    made = sorted(set(after) - set(before))
    changed = sorted(name for name, state in before.items() if after.get(name) != state)
    return Outcome(code, seconds, busy, log.read_text(encoding="utf-8", errors="replace"), made, changed)


def _be_the_child(case: Case, words: list[str], log: Path) -> None:
    """As `python -m anchor_lightning` in a shell of its own; never returns."""
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, errors="backslashreplace")
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        # An input that makes the process fill the memory must not take the machine with it.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, resource.RLIM_INFINITY))
        sys.argv = ["anchor_lightning"]  # with more words here Lightning warns, and repeats them
        if case.before:
            case.before()
        code = _exit_code_of(words)
        if case.after and (complaint := case.after()):
            print(COMPLAINT + complaint, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


def _exit_code_of(words: list[str]) -> int:
    """What the interpreter would do with whatever `main` ends with."""
    try:
        main(words)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time and inode of all that lies in a folder."""
    result = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        # A folder's own time changes with what lies in it.
        changing = (state.st_size, state.st_mtime_ns) if not path.is_dir() else (0, 0)
        result[str(path.relative_to(folder))] = (*changing, state.st_ino)
    return result


def judge(case: Case, outcome: Outcome, folder: Path) -> list[str]:
    """What was wrong with an outcome: nothing, if it is the ending that the case expects."""
    defects = [line.removeprefix(COMPLAINT) for line in outcome.output.splitlines() if line.startswith(COMPLAINT)]
    if outcome.code is None:
        return [*defects, f"hangs (over {SECONDS_PER_CASE:g} s)"]
    if "Traceback (most recent call last)" in outcome.output:
        defects.append("shows a traceback")
    if case.says and not re.search(case.says, outcome.output, re.DOTALL):
        defects.append(f"does not say /{case.says}/")
    if outcome.changed:
        defects.append(f"changes {', '.join(outcome.changed[:3])}")
    worked = not case.makes or any(str(path.relative_to(folder)) in outcome.made for path in folder.glob(case.makes))
    if outcome.code == 0:
        if case.ends == "refused":
            defects.append("exit code 0 where a refusal is due")
        elif not worked:
            defects.append(f"exit code 0 without {case.makes}")
        return defects
    if case.ends == "goes on":
        return [*defects, f"exit code {outcome.code} where it should go on"]
    if case.exit_code is not None and outcome.code != case.exit_code:
        defects.append(f"exit code {outcome.code}, not {case.exit_code}")
    if outcome.code < 0 and case.exit_code is None:
        defects.append(f"killed by signal {-outcome.code}")
    if case.early and outcome.made:
        defects.append(f"leaves {', '.join(outcome.made[:3])}")
    if outcome.busy > case.seconds:
        defects.append(f"takes {outcome.busy:.0f} s to refuse")
    if case.early and len(message_lines(outcome.output)) > MAX_LINES:
        defects.append("says too much")
    return defects


def message_lines(output: str) -> list[str]:
    """The lines that tell the user something: without the program's usage and Lightning's greetings."""
    lines = [line.rstrip() for line in output.splitlines() if not NOISE.match(line)]
    return [line for line in lines if not line.startswith((" ", COMPLAINT))]


def said(case: Case, output: str) -> str:
    """The line that the case is about: that which matches, or of a refusal the last; of the parser's all it says."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith(COMPLAINT)]
    if not lines or (case.ends == "goes on" and not case.says):
        return ""
    if case.ends == "goes on":
        return next((line for line in reversed(lines) if re.search(case.says, line)), "")
    first = next((number for number, line in enumerate(lines) if line.startswith("error: ")), len(lines) - 1)
    return " ".join(lines[first:])
