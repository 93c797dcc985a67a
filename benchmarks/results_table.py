"""The tables of docs/results.md, from run folders alone.

    python benchmarks/results_table.py RUNS [--figure FILE.png]

RUNS holds one folder a run, named ARM-INIT-seedN, as benchmarks/bccd.sh makes them. Everything printed is read from the
runs' metrics.csv and anchors.csv.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from matplotlib.figure import Figure

METRICS = {"val/map_50": "AP@.5", "val/map": "AP@.5:.95", "val/map_voc07": "AP@.5, VOC 2007"}
NAME = re.compile(r"(?P<arm>.+)-(?P<init>[^-]+)-seed(?P<seed>\d+)")
COLOURS = {"kmeans": "#0072B2", "uniform": "#D55E00", "identical": "#009E73"}
"""Colour-blind-safe (Okabe-Ito)."""


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself at its last step."""

    arm: str
    init: str
    seed: int
    metrics: dict[str, float]
    initial: list[tuple[float, float]]
    final: list[tuple[float, float]]
    mean_best_iou: tuple[float, float]
    least_usage: float
    curve: list[tuple[int, float]]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_run(folder: Path) -> Run:
    """Reads the newest version below a run's folder.

    Raises:
        ValueError: The name does not say what the run is, or it has not been validated at its last step.
    """
    match = NAME.fullmatch(folder.name)
    versions = sorted(folder.glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    if match is None or not versions:
        raise ValueError(f"{folder}: expected a folder ARM-INIT-seedN with a version_*/metrics.csv in it")
    rows = rows_of(versions[-1])
    validated = [row for row in rows if row.get("val/map_50")]
    max_steps = yaml.safe_load((versions[-1].parent / "config.yaml").read_text())["trainer"]["max_steps"]
    if not validated or int(validated[-1]["step"]) + 1 != max_steps:
        raise ValueError(f"{folder}: not validated at its last step, {max_steps}")
    logged = [row for row in rows if row.get("anchors/mean_best_iou")]
    shapes = rows_of(versions[-1].parent / "anchors.csv")
    num = max(int(row["anchor"]) for row in shapes) + 1
    wh = [(float(row["w"]), float(row["h"])) for row in shapes]
    return Run(
        match["arm"],
        match["init"],
        int(match["seed"]),
        {key: float(validated[-1][key]) for key in METRICS},
        wh[:num],
        sorted(wh[-num:], key=lambda shape: shape[0] * shape[1]),
        (float(logged[0]["anchors/mean_best_iou"]), float(logged[-1]["anchors/mean_best_iou"])),
        min(float(logged[-1][f"anchors/usage_{k}"]) for k in range(num)),
        [(int(row["step"]), float(row["anchors/mean_best_iou"])) for row in logged],
    )


def shapes_text(shapes: list[tuple[float, float]]) -> str:
    """Shapes as w x h in whole pixels."""
    return ", ".join(f"{w:.0f}x{h:.0f}" for w, h in shapes)


def tables(runs: list[Run]) -> str:
    """A table of means over the seeds, and one row a run, in Markdown."""
    lines = [
        f"| arm | initialisation | {' | '.join(METRICS.values())} | mean best IoU, start -> end | seeds |",
        f"|---|---|{'---|' * len(METRICS)}---|---|",
    ]
    for arm, init in dict.fromkeys((run.arm, run.init) for run in runs):
        same = [run for run in runs if (run.arm, run.init) == (arm, init)]
        cells = []
        for key in METRICS:
            values = [run.metrics[key] for run in same]
            spread = " / ".join(f"{value:.3f}" for value in values)
            cells.append(f"**{statistics.mean(values):.3f}** ({spread})")
        start, end = (statistics.mean(run.mean_best_iou[i] for run in same) for i in (0, 1))
        lines.append(f"| {arm} | {init} | {' | '.join(cells)} | {start:.3f} -> {end:.3f} | {len(same)} |")
    lines += ["", "| run | initial shapes (px) | final shapes (px) | least usage |", "|---|---|---|---|"]
    for run in runs:
        name = f"{run.arm}, {run.init}, seed {run.seed}"
        lines.append(f"| {name} | {shapes_text(run.initial)} | {shapes_text(run.final)} | {run.least_usage:.3f} |")
    return "\n".join(lines)


def draw(runs: list[Run], path: Path) -> None:
    """Mean best IoU of the shapes over the steps: a panel for each arm that learns, a line a run."""
    arms = [arm for arm in dict.fromkeys(run.arm for run in runs) if arm != "baseline"]
    figure = Figure(figsize=(4.2 * len(arms), 3.4), layout="constrained", facecolor="white")
    for arm, axes in zip(arms, figure.subplots(1, len(arms), sharey=True, squeeze=False)[0], strict=True):
        labelled: set[str] = set()
        for run in (run for run in runs if run.arm == arm):
            steps, values = zip(*run.curve, strict=True)
            axes.plot(steps, values, color=COLOURS[run.init], label=None if run.init in labelled else run.init)
            labelled.add(run.init)
        axes.set(title=arm, xlabel="optimizer step", ylim=(0, 1))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mean best IoU with the training boxes")
    figure.axes[0].legend(title="initial shapes", frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Prints the tables and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    order = {"kmeans": 0, "uniform": 1, "identical": 2}
    runs = []
    for folder in sorted(path for path in options.runs.iterdir() if path.is_dir()):
        try:
            runs.append(read_run(folder))
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
    runs.sort(key=lambda run: (run.arm, order.get(run.init, 9), run.seed))
    print(tables(runs))
    if options.figure:
        draw(runs, options.figure)


if __name__ == "__main__":
    main()
