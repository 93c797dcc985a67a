"""Makes the tables and the figure of the grid `pyramids` from its CSV: docs/evidence/pyramids.md and pyramids.png.

python benchmarks/evidence/report_pyramids.py
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from pyramids import ARMS
from report import FOLDER, MEASURE, by_class, mean_interval, measured, paired, text

STOCK: Final = "stock"
PAIRS: Final = (  # besides each arm and stock
    ("learned", "learned-old"),
    ("kmeans-learned", "kmeans"),
)
RECALL: Final = "ar_50"
Rows = dict[int, dict[str, str]]  # by seed
Table = dict[tuple[str, str, str], Rows]  # detector, set, arm


class ClassChange(NamedTuple):
    """How the AP of a class differs from another arm's: by seed, and the other arm's range over these seeds."""

    name: str
    differences: list[float]
    spread: float

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(np.mean(self.differences))

    @property
    def is_lost(self) -> bool:
        """Whether the class loses more than the other arm's seeds differ by."""
        return -self.mean > self.spread

    @property
    def is_lower(self) -> bool:
        """Whether the 95 % interval of the difference lies below 0; not known from one seed."""
        mean, half = mean_interval(self.differences)
        return mean + half < 0


def read(path: Path) -> Table:
    """The rows by detector, set and arm, then by seed."""
    table: Table = defaultdict(dict)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            table[row["detector"], row["set"], row["arm"]][int(row["seed"])] = row
    return dict(table)


def class_changes(rows: Rows, other: Rows) -> list[ClassChange]:
    """The change of each class against another arm, the largest loss first, over the seeds that both have."""
    seeds = sorted(set(rows) & set(other))
    changes = []
    for name in by_class(next(iter(rows.values()))):
        values = [by_class(other[seed])[name] for seed in seeds]
        differences = [by_class(rows[seed])[name] - value for seed, value in zip(seeds, values, strict=True)]
        changes.append(ClassChange(name, differences, max(values) - min(values)))
    return sorted(changes, key=lambda change: change.mean)


def tables(table: Table) -> str:
    """All tables as Markdown."""
    lines = [
        "# Tables of the evidence on pyramids",
        "",
        "Made by `benchmarks/evidence/report_pyramids.py` from `pyramids.csv`. AP@.5 in points, over the classes with",
        "at least 50 boxes (all classes where there is none); ± is half of the 95 % interval (Student's t); seeds in",
        "brackets. Recall is the average over IoU 0.5 to 0.95 of the first stage's proposals; of RetinaNet and YOLOv3,",
        "which have one stage, of their detections, 300 at most.",
    ]
    for detector in dict.fromkeys(key[0] for key in table):
        lines += [*means(table, detector), *differences(table, detector), *shapes(table, detector)]
    return "\n".join(lines) + "\n"


def means(table: Table, detector: str) -> list[str]:
    """What each arm reaches."""
    measures = (MEASURE, "map", RECALL, "ar_100", "ar_300", "ar_1000", "recall_iou50_50")
    head = ["set", "arm", "AP@.5", "AP", *(f"recall {n}" for n in (50, 100, 300, 1000)), "recall 50 at IoU 0.5"]
    head += ["mean best IoU", "BPR", "seconds"]
    lines = ["", f"## {detector}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, arm in ordered(table, detector):
        rows = table[detector, name, arm]
        cells = [text(list(measured(rows, measure).values())) for measure in measures]
        fits = [f"{np.mean(list(measured(rows, column).values())):.3f}" for column in ("mean_best_iou", "bpr")]
        seconds = f"{np.mean(list(measured(rows, 'seconds').values())):.0f}"
        lines.append("| " + " | ".join([name, arm, *cells, *fits, seconds]) + " |")
    return lines


def differences(table: Table, detector: str) -> list[str]:
    """Arms against others, paired by seed, with the class that changes for the worst."""
    head = ["set", "arm less arm", "AP@.5", "AP", "recall 50", "recall 50 at IoU 0.5", "worst class"]
    head += ["spread of its seeds in the other arm", "classes that lose more than that"]
    head += ["classes whose interval is below 0"]
    lines = ["", f"Differences ({detector}):", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in dict.fromkeys(key[1] for key in table):
        arms = [arm for arm in ARMS if arm != STOCK]
        for arm, other in (*((arm, STOCK) for arm in arms), *PAIRS):
            rows, others = table.get((detector, name, arm)), table.get((detector, name, other))
            if not rows or not others or not set(rows) & set(others):
                continue
            measures = (MEASURE, "map", RECALL, "recall_iou50_50")
            cells = [text(paired(measured(rows, m), measured(others, m)), signed=True) for m in measures]
            changes = class_changes(rows, others)
            worst, lost = changes[0], [change.name for change in changes if change.is_lost]
            lower = [change.name for change in changes if change.is_lower]
            cells += [f"{worst.name} {text(worst.differences, signed=True)}", f"{100 * worst.spread:.1f}"]
            cells += [", ".join(names) or "none" for names in (lost, lower)]
            lines.append("| " + " | ".join([name, f"{arm} less {other}", *cells]) + " |")
    return lines


def shapes(table: Table, detector: str) -> list[str]:
    """Where the shapes of the first seed began and ended."""
    head = ("set", "arm", "initial shapes (px), a bar between levels", "learned")
    lines = ["", f"Shapes ({detector}), seed 0:", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, arm in ordered(table, detector):
        row = table[detector, name, arm].get(0)
        if row is not None and "learned" in arm:
            start, end = (row[column].replace("|", "/") for column in ("initial_shapes", "shapes"))
            lines.append(f"| {name} | {arm} | {start} | {end} |")
    return lines


def ordered(table: Table, detector: str) -> list[tuple[str, str]]:
    """The sets and arms of a detector."""
    names = dict.fromkeys(key[1] for key in table)
    return [(name, arm) for name in names for arm in ARMS if (detector, name, arm) in table]


def forest(table: Table, path: Path) -> None:
    """Forest plot: detector by detector, the arms less stock in AP@.5, in recall and in the class that loses most."""
    detectors, names = ([*dict.fromkeys(key[place] for key in table)] for place in (0, 1))
    arms = [arm for arm in ARMS if arm != STOCK and any(key[2] == arm for key in table)]
    colours = {arm: f"C{place}" for place, arm in enumerate(arms)}
    titles = ("AP@.5", "recall at 50", "AP@.5 of the worst class")
    size = (4 * len(detectors), 3 * (1 + 0.6 * len(names)))
    figure, axes = plt.subplots(3, len(detectors), figsize=size, sharex="row", sharey=True, squeeze=False)
    for column, detector in enumerate(detectors):
        for row, title in enumerate(titles):
            axis = axes[row, column]
            for place, name in enumerate(reversed(names)):
                for shift, arm in zip(np.linspace(0.35, -0.35, len(arms)), arms, strict=True):
                    draw(axis, place + float(shift), colours[arm], compared(table, detector, name, arm)[row])
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set_yticks(range(len(names)), [*reversed(names)])
            axis.set_title(f"{detector}: {title}", fontsize=9)
            axis.grid(axis="x", alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("difference from stock, points")
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", color=colour, label=f"{arm} less stock")
        for arm, colour in colours.items()
    ]
    columns = max(1, 2 * len(detectors) - 1)
    figure.tight_layout(rect=(0, 0.2 * math.ceil(1 + len(handles) / columns) / figure.get_figheight(), 1, 1))
    figure.legend(handles=handles, loc="lower center", ncols=columns, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def compared(table: Table, detector: str, name: str, arm: str) -> tuple[list[float], list[float], list[float]]:
    """By seed, an arm less stock in AP@.5, in recall and in the class that loses most; empty where there is no pair."""
    rows, stock = table.get((detector, name, arm), {}), table.get((detector, name, STOCK), {})
    if not set(rows) & set(stock):
        return [], [], []
    ap, recall = (paired(measured(rows, m), measured(stock, m)) for m in (MEASURE, RECALL))
    return ap, recall, class_changes(rows, stock)[0].differences


def draw(axis: plt.Axes, place: float, colour: str, values: list[float]) -> None:
    """Mean, 95 % interval and the seeds of one comparison, if there is any."""
    if not values:
        return
    mean, half = mean_interval(values)
    bar = None if math.isnan(half) else 100 * half
    axis.errorbar(100 * mean, place, xerr=bar, fmt="o", markersize=4, color=colour, capsize=2)
    axis.scatter(100 * np.array(values), [place] * len(values), s=7, color=colour, alpha=0.35)


def main() -> None:
    """Writes the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=FOLDER / "pyramids.csv")
    parser.add_argument("--output", type=Path, default=FOLDER)
    args = parser.parse_args()
    table = read(args.runs)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "pyramids.md").write_text(tables(table))
    forest(table, args.output / "pyramids.png")


if __name__ == "__main__":
    main()
