"""Runs a grid of trainings one after another, and goes on where it was stopped."""

from __future__ import annotations

import csv
import itertools
import math
import re
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from anchor_lightning.commands.anchor_tables import aligned
from anchor_lightning.commands.configs import CONFIG_FLAGS, find_config, read_yaml
from anchor_lightning.errors import UserError

ARGS_MACRO: Final = "${args}"
RESULTS: Final = "results.csv"
LOG: Final = "log.txt"  # in the folder of a run
VALIDATED: Final = "step "  # beginning of the lines in a log that say what a validation has measured
SECONDS: Final = 5.0  # between looks into the log
OWN_OPTIONS: Final = {"seed_everything": "give --seeds", "trainer.default_root_dir": "give --output"}
DONE: Final = "done"  # Marks the folder of a run that ended well; holds the arguments that it was given, a line each
COLUMNS: Final = ("val/map", "val/map_50", "val/map_voc07", "val/map_voc", "anchors/mean_best_iou")


class Run(NamedTuple):
    """One point of the grid: the name of its folder, made of the values and the seed, and the arguments of `fit`."""

    name: str
    args: list[str]


def sweep(
    file: str, output: str | None = None, seeds: list[int] | None = None, fit_options: list[str] | None = None
) -> Path:
    """Runs every training of a W&B sweep file of method grid, without W&B's agent; `-- OPTIONS` go to each of them.

    Run it again after it was stopped: finished trainings are left alone, a training that was cut off goes on from its
    last checkpoint. A training that fails does not keep the others from running.

    Args:
        file: A sweep file, or the name of a shipped one (`sweep/table1.yaml`, `sweep/figure4.yaml`).
        output: Folder with one folder a run, and `results.csv`; `runs/NAME` of the file if not given.
        seeds: Each point runs with each of them; 0 if not given.
        fit_options: Further arguments for each `fit`, such as `--data.root FOLDER`; on the command line behind `--`.

    Returns:
        The path of `results.csv`.

    Raises:
        UserError: The file is no grid, a finished training in `output` was given other arguments, or trainings failed.
    """
    path = Path(find_config(file, "--file"))
    folder = Path(output or Path("runs") / path.stem)
    runs = grid(path, seeds or [0], fit_options or [])
    for run in runs:
        done = folder / run.name / DONE
        if done.exists() and done.read_text(encoding="utf-8").splitlines() != run.args:
            raise UserError(
                f"{done.parent}: finished before, but with other options than these (see {done}); give another "
                "--output, or remove the folder"
            )
    failed: list[str] = []
    for number, run in enumerate(runs, start=1):
        done = folder / run.name / DONE
        where = "done before" if done.exists() else f"log in {folder / run.name / LOG}"
        print(f"[{number}/{len(runs)}] {run.name}: {where}", flush=True)
        if not done.exists() and not _run(folder / run.name, run.args):
            failed.append(run.name)
        _write_results(folder, runs)
    print(f"\n{_table(folder / RESULTS)}\nWrote {folder / RESULTS}")
    finished = [run.name for run in runs if (folder / run.name / DONE).exists()]
    if without := [name for name in finished if not _last_values(folder / name)]:
        print(f"No row for {', '.join(without)}: no metrics.csv in the folder has a validation.")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} trainings failed: {', '.join(failed)}; see {LOG} in their folders under "
            f"{folder}, and run the same command again for these"
        )
    return folder / RESULTS


def grid(path: Path, seeds: list[int], fit_options: Sequence[str] = ()) -> list[Run]:
    """The trainings of a sweep file, in the order of its parameters' values, each with each seed and the options.

    Raises:
        UserError: It is no W&B sweep of method grid whose command calls `fit`; says what is missing. Or an option is
            one that the sweep sets.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or content.get("method") != "grid":
        raise UserError(f"{path}: expected a W&B sweep file with 'method: grid'")
    command, parameters = content.get("command"), content.get("parameters")
    if not isinstance(command, list) or "fit" not in command or ARGS_MACRO not in command[command.index("fit") :]:
        raise UserError(f"{path}: its 'command' must be a list with fit and behind it {ARGS_MACRO}")
    if not isinstance(parameters, dict) or not all(values := [_values(entry) for entry in parameters.values()]):
        raise UserError(f"{path}: every entry of 'parameters' must have a list, 'values: [...]', or 'value: ...'")
    _check_options(fit_options, path, parameters)
    configs, options = _configs_apart(fit_options)
    command = [str(word) for word in command[command.index("fit") :]]
    points = list(itertools.product(itertools.product(*values), seeds))
    names = [_name(point, seed) for point, seed in points]
    if len(set(names)) < len(points):
        names = [_name(point, seed, whole=True) for point, seed in points]
    if len(set(names)) < len(points):
        raise UserError(f"{path}: two trainings would have the same folder; give values or seeds that differ")
    at, runs = command.index(ARGS_MACRO), []
    for name, (point, seed) in zip(names, points, strict=True):
        chosen = [f"--{option}={_text(value)}" for option, value in zip(parameters, point, strict=True)]
        seeded = [*command[at + 1 :], f"--seed_everything={seed}"]
        runs.append(Run(name, [*command[:at], *configs, *chosen, *seeded, *options]))
    return runs


def _check_options(options: Sequence[str], path: Path, swept: Collection[str]) -> None:
    """Raises a `UserError` for an option that each training is given by the sweep; one below it refines a value."""
    if own := next((name for name in OWN_OPTIONS if name in swept), None):
        raise UserError(f"{path}: parameters: the sweep sets {own} for each training; {OWN_OPTIONS[own]}")
    instead = {name: f"change {path}" for name in swept if name != "config"} | OWN_OPTIONS
    for name in (word.partition("=")[0].removeprefix("--") for word in options if word.startswith("--")):
        for own, advice in instead.items():
            if name == own or (own in swept and own.startswith(f"{name}.")):
                raise UserError(f"--{name}: the sweep sets {own} for each training; {advice}")


def _configs_apart(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options that name configurations, over which the values of the grid are to win, and the others."""
    configs: list[str] = []
    others: list[str] = []
    for before, word in zip(["", *options], options, strict=False):
        is_config = before in CONFIG_FLAGS or word.partition("=")[0] in CONFIG_FLAGS
        (configs if is_config else others).append(word)
    return configs, others


def _name(point: Sequence[Any], seed: int, whole: bool = False) -> str:
    """Name of a folder: of paths the file's name without suffix, unless they are to be `whole`."""
    return "-".join([*(_whole(value) if whole else _short(value) for value in point), f"seed{seed}"])


def _short(value: Any) -> str:
    if not isinstance(value, str):
        return _whole(value)
    path = Path(value)
    return path.stem if path.suffix[1:].isalpha() else path.name


def _whole(value: Any) -> str:
    return re.sub(r"[/\\]", "_", _text(value))


def _values(entry: Any) -> list[Any]:
    if not isinstance(entry, dict):
        return []
    values = entry.get("values", [entry["value"]] if "value" in entry else [])
    return values if isinstance(values, list) else []


def _text(value: Any) -> str:
    """A value as `fit` reads it: YAML in one line; words are as they are."""
    if isinstance(value, list | dict):
        return str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)).strip()
    return "null" if value is None else str(value)


def _run(folder: Path, args: list[str]) -> bool:
    """Runs one training in a process of its own, from its last checkpoint if it has one; whether it ended well."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "anchor_lightning", *args, f"--trainer.default_root_dir={folder}", "--resume"]
    with (folder / LOG).open("a") as log:
        begin = log.tell()
        process = subprocess.Popen(command, stdout=log, stderr=log)
    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = True
        process.terminate()

    # A scheduler ends the sweep with SIGTERM; the training must save and end as well.
    before = signal.signal(signal.SIGTERM, stop)
    try:
        code = _follow(process, folder / LOG, begin)
    except KeyboardInterrupt:  # the training has had the same Ctrl-C, and saves
        code, stopped = process.wait(), True
    finally:
        signal.signal(signal.SIGTERM, before)
    if code == 0:  # also where the signal has come too late for it
        (folder / DONE).write_text("\n".join(args) + "\n", encoding="utf-8")
    if stopped or code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        raise SystemExit("sweep: stopped; the same command goes on from here")
    return code == 0


def _follow(process: subprocess.Popen[bytes], path: Path, begin: int) -> int:
    """The status that a training ends with; meanwhile what its validations measure is shown, from its log."""
    code = None
    with path.open(encoding="utf-8", errors="replace") as log:
        log.seek(begin)
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(SECONDS)
            for line in log:
                if line.startswith(VALIDATED):
                    print(f"  {line.rstrip()}", flush=True)
    return code


def _table(path: Path) -> str:
    """The results as aligned text, with four digits."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [
        [row["run"], row["step"], *(f"{float(row[name]):.4f}" if row[name] else "-" for name in COLUMNS)]
        for row in rows
    ]
    return aligned([["run", "step", *COLUMNS], *cells])


def _write_results(folder: Path, runs: list[Run]) -> None:
    """One row a run that was validated: its last values."""
    with (folder / RESULTS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("run", "step", *COLUMNS), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(values | {"run": run.name} for run in runs if (values := _last_values(folder / run.name)))


def _last_values(folder: Path) -> dict[str, str]:
    """The last value of every column in the metrics.csv below a folder, where it has validated at all.

    A training that was stopped and went on has several, and the last validation may be in any of them.
    """
    values: dict[str, str] = {}
    for path in sorted(folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open(newline="") as file:
            values |= {name: value for row in csv.DictReader(file) for name, value in row.items() if value}
    return values if values.get("val/map") else {}
