"""Runs the cases, writes the table, and fails if any case ends otherwise than it should."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from benchmarks.robustness import (
    annotations_coco,
    annotations_lines,
    annotations_voc,
    checkpoints,
    disks,
    images,
    options,
    weather,
    weights,
)
from benchmarks.robustness.harness import Case, Outcome, run_case, said
from benchmarks.robustness.made import WORDS, make_templates

GROUPS = (images, annotations_voc, annotations_coco, annotations_lines, options, checkpoints, weights, weather, disks)
BEGIN, END = "<!-- the table begins -->\n", "<!-- the table ends -->\n"
LONGEST = 240
"""Letters of a message that the table shows."""


def all_cases() -> list[Case]:
    """Every case, in the order of the table.

    Raises:
        ValueError: Two have the same name.
    """
    cases = [case for group in GROUPS for case in group.cases()]
    twice = [name for name, count in Counter((case.group, case.what) for case in cases).items() if count > 1]
    if twice:
        raise ValueError(f"two cases are called {twice[0]}")
    return cases


def run_cases(cases: list[Case], folder: Path) -> list[Outcome]:
    """Runs cases one after another in an empty folder; what each leaves is removed unless it is a defect."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        os.environ.pop(name, None)
    os.environ.update(WANDB_MODE="offline", HOME=str(folder), NETRC=str(folder / "netrc"), WANDB_SILENT="true")
    torch.set_num_threads(1)  # small tensors; and a forked child has none of its parent's threads
    templates = make_templates(folder)
    outcomes = []
    for number, case in enumerate(cases):
        place = folder / f"{number:03d}"
        outcome = run_case(case, place, templates, WORDS)
        outcome.output = shortened(outcome.output, place, folder)
        outcomes.append(outcome)
        print(f"{number:3d} {outcome.ending:8} {outcome.seconds:5.1f} s  {case.group}: {case.what}", flush=True)
        if outcome.defects:
            print(f"      {'; '.join(outcome.defects)}\n      {said(case, outcome.output)[:400]}", flush=True)
        else:
            shutil.rmtree(place, ignore_errors=True)
    return outcomes


def shortened(text: str, place: Path, folder: Path) -> str:
    """The text without the folders of this machine."""
    home = Path(__file__).resolve().parents[2]
    for path, name in ((place, "HERE"), (folder, "SCRATCH"), (Path(sys.prefix), "PYTHON"), (home, "PROJECT")):
        text = text.replace(str(path.resolve()), name).replace(str(path), name)
    text = re.sub(r"\b(pid|PID)\(?s?\)? \d+", r"\1 N", text)
    text = re.sub(r"PROJECT/anchor_lightning/\S+\.py:\d+: ", "", text)  # where a warning was given
    return re.sub(r"[^\S\n]|[\x00-\x08\x0b-\x1f]", lambda m: m[0] if m[0].isspace() else repr(m[0])[1:-1], text)


def table(cases: list[Case], outcomes: list[Outcome]) -> str:
    """The cases as Markdown, a table a group."""
    endings = Counter(outcome.ending for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    lines = [
        f"{len(cases)} cases in {seconds / 60:.0f} minutes: " + ", ".join(f"{n} {e}" for e, n in endings.items()),
        "",
    ]
    for group in dict.fromkeys(case.group for case in cases):
        rows = [(case, outcome) for case, outcome in zip(cases, outcomes, strict=True) if case.group == group]
        lines += [
            f"### {group}: {len(rows)}",
            "",
            "| input | ending | exit | s | what is said |",
            "|---|---|---|---|---|",
        ]
        for case, outcome in rows:
            message = " ".join(said(case, outcome.output).split()).replace("|", "\\|").replace("`", "'")
            message = message if len(message) <= LONGEST else message[: LONGEST - 2] + " …"
            remark = "; ".join(outcome.defects)
            cells = [case.what, outcome.ending + (f" ({remark})" if remark else ""), str(outcome.code)]
            cells += [f"{outcome.seconds:.1f}", f"`{message}`" if message else ""]
            lines.append("| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Parses the command line, runs what it asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=__doc__)
    parser.add_argument("--table", type=Path, help="Markdown file whose table is replaced, between its two markers")
    parser.add_argument("--only", default="", help="pattern that 'group: input' must match")
    parser.add_argument("--keep", type=Path, help="folder for the cases, which then stays")
    options_ = parser.parse_args()
    cases = [case for case in all_cases() if re.search(options_.only, f"{case.group}: {case.what}")]
    folder = (options_.keep or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    outcomes = run_cases(cases, folder)
    bad = sum(bool(outcome.defects) for outcome in outcomes)
    print(f"{len(cases)} cases, {bad} defects, {time.monotonic() - start:.0f} s")
    if options_.table:
        text = options_.table.read_text(encoding="utf-8")
        head, _, rest = text.partition(BEGIN)
        _, _, tail = rest.partition(END)
        options_.table.write_text(f"{head}{BEGIN}\n{table(cases, outcomes)}\n{END}{tail}", encoding="utf-8")
    if not options_.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
