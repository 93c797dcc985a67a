"""The tables of docs/results.md, from run folders alone.

    python benchmarks/results_table.py RUNS --data VOC_STYLE_ROOT [--figure FILE.png] [--widths FILE.png]

RUNS holds one folder a run, named ARM-INIT-seedN, as benchmarks/bccd.sh makes them. Metrics are read from the runs'
metrics.csv; how well the last shapes in anchors.csv fit the training boxes, annotated and as training shows them, and
how many boxes each serves, is computed here.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.anchors.iou import shape_iou
from anchor_lightning.data import VOCDataModule

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
    iou: dict[str, tuple[float, float]]
    usage: list[float]
    curve: list[tuple[int, float]]
    widths: list[tuple[int, int, float]]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def usage_of(boxes: Tensor, wh: Tensor) -> list[float]:
    """Share of the boxes that each shape serves best."""
    counts = shape_iou(boxes[:, None], wh[None]).argmax(1).bincount(minlength=len(wh))
    shares: list[float] = (counts / len(boxes)).tolist()
    return shares


def read_run(folder: Path, boxes: dict[str, Tensor]) -> Run:
    """Reads the newest version below a run's folder.

    Args:
        folder: Of the run.
        boxes: The training boxes, `annotated` and `augmented`.

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
    initial, final = torch.tensor(wh[:num]), torch.tensor(wh[-num:])
    return Run(
        match["arm"],
        match["init"],
        int(match["seed"]),
        {key: float(validated[-1][key]) for key in METRICS},
        wh[:num],
        sorted(wh[-num:], key=lambda shape: shape[0] * shape[1]),
        {name: (mean_best_iou(b, initial), mean_best_iou(b, final)) for name, b in boxes.items()},
        usage_of(boxes["augmented"], final),
        [(int(row["step"]), float(row["anchors/mean_best_iou"])) for row in logged],
        [(int(row["step"]), int(row["anchor"]), float(row["w"])) for row in shapes],
    )


def shapes_text(shapes: list[tuple[float, float]]) -> str:
    """Shapes as w x h in whole pixels."""
    return ", ".join(f"{w:.0f}x{h:.0f}" for w, h in shapes)


def tables(runs: list[Run]) -> str:
    """A table of means over the seeds, and one row a run, in Markdown."""
    fits = [f"IoU, {name}" for name in runs[0].iou]
    lines = [
        f"| arm | initialisation | {' | '.join([*METRICS.values(), *fits])} | least usage | seeds |",
        f"|---|---|{'---|' * (len(METRICS) + len(fits))}---|---|",
    ]
    for arm, init in dict.fromkeys((run.arm, run.init) for run in runs):
        same = [run for run in runs if (run.arm, run.init) == (arm, init)]
        cells = []
        for key in METRICS:
            values = [run.metrics[key] for run in same]
            spread = " / ".join(f"{value:.3f}" for value in values)
            cells.append(f"**{statistics.mean(values):.3f}** ({spread})")
        for name in same[0].iou:
            start, end = (statistics.mean(run.iou[name][i] for run in same) for i in (0, 1))
            cells.append(f"{start:.3f} -> {end:.3f}")
        cells.append(f"{min(min(run.usage) for run in same):.3f}")
        lines.append(f"| {arm} | {init} | {' | '.join(cells)} | {len(same)} |")
    lines += ["", "| run | initial shapes (px) | final shapes (px) |", "|---|---|---|"]
    for run in runs:
        name = f"{run.arm}, {run.init}, seed {run.seed}"
        lines.append(f"| {name} | {shapes_text(run.initial)} | {shapes_text(run.final)} |")
    return "\n".join(lines)


def draw_widths(runs: list[Run], path: Path) -> None:
    """Width of every shape over the steps, logarithmic: a column an arm, a row an initialisation, the first seed.

    At its end each line says the share of the (augmented) training boxes that its shape serves.
    """
    shown = [run for run in runs if run.arm != "baseline" and run.seed == min(r.seed for r in runs)]
    arms, inits = list(dict.fromkeys(run.arm for run in shown)), list(dict.fromkeys(run.init for run in shown))
    figure = Figure(figsize=(3.2 * len(arms), 2.6 * len(inits)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(inits), len(arms), sharex=True, sharey=True, squeeze=False)
    for run in shown:
        axes = panels[inits.index(run.init)][arms.index(run.arm)]
        for anchor, usage in enumerate(run.usage):
            steps, widths = zip(*((step, w) for step, number, w in run.widths if number == anchor), strict=True)
            axes.plot(steps, widths, color=f"C{anchor}", linewidth=1.2)
            axes.annotate(f"{usage:.0%}", (steps[-1], widths[-1]), fontsize=6, color=f"C{anchor}")
        axes.set(yscale="log", title=f"{run.arm}, {run.init}")
        axes.title.set_fontsize(7)
        axes.grid(alpha=0.3)
    for row in panels:
        row[0].set_ylabel("width (px)")
    for axes in panels[-1]:
        axes.set_xlabel("optimizer step")
    figure.savefig(path, dpi=110)


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
    parser.add_argument("--data", required=True, help="root of the VOC-style set that the runs were trained on")
    parser.add_argument("--years", type=int, nargs="*", help="of a devkit root")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--figure", type=Path, help="mean best IoU over the steps")
    parser.add_argument("--widths", type=Path, help="widths over the steps")
    parser.add_argument("--arms", nargs="*", help="those to draw; all if not given")
    options = parser.parse_args()
    years = {"years": options.years} if options.years else {}
    data = VOCDataModule(root=options.data, image_size=options.image_size, **years)
    boxes = {"annotated": data.train_box_shapes(), "augmented": data.train_box_shapes(augmented=True)}
    order = {"kmeans": 0, "uniform": 1, "identical": 2}
    runs = []
    for folder in sorted(path for path in options.runs.iterdir() if path.is_dir()):
        try:
            runs.append(read_run(folder, boxes))
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
    runs.sort(key=lambda run: (run.arm, order.get(run.init, 9), run.seed))
    print(tables(runs))
    drawn = [run for run in runs if not options.arms or run.arm in options.arms]
    if options.figure:
        draw(drawn, options.figure)
    if options.widths:
        draw_widths(drawn, options.widths)


if __name__ == "__main__":
    main()
