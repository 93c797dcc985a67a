"""Makes the tables and figures of the evidence from its CSV: docs/evidence/tables.md and forest.png.

python benchmarks/evidence/report.py
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
import numpy as np

FOLDER: Final = Path(__file__).parents[2] / "docs" / "evidence"
MEASURE: Final = "map_50_frequent"
BASELINE, CONTROL, FULL = "baseline", "baseline-bn", "opt-soft-clust-bn"
FIXED = "full + fixed shapes"  # the full method but for the gradient to the shapes
SLOW = "full + lr_mult 0.1"  # the shapes learn at 1e-3, the paper's rate; in all other arms at the network's 1e-2
RATES: Final = {FULL: "1e-2", SLOW: "1e-3"}  # of the shapes
LADDER: Final = (BASELINE, "opt", "opt-soft", "opt-soft-clust", FULL)  # of Table 6
PLOTTED: Final = (
    ("baseline + BN less baseline", CONTROL, BASELINE, "tab:orange", 0.32),
    ("full less baseline", FULL, BASELINE, "tab:blue", 0.16),
    ("full less baseline + BN", FULL, CONTROL, "tab:green", 0),
    ("learned (1e-2) less fixed shapes", FULL, FIXED, "tab:red", -0.16),
    ("learned (1e-3) less fixed shapes", SLOW, FIXED, "tab:purple", -0.32),
)
# Two-sided 95 % quantiles of Student's t by degrees of freedom, 1 to 9 (any table of it).
T_95: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
Values = dict[int, float]  # by seed
Table = dict[tuple[str, str, str, int], dict[int, dict[str, str]]]  # set, arm, start, number of shapes; then seed


def read(path: Path) -> Table:
    """The rows by set, arm, start and number of shapes, then by seed."""
    table: Table = defaultdict(dict)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            table[row["set"], row["arm"], row["start"], int(row["num"])][int(row["seed"])] = row
    return table


def mean_interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval; NaN for the latter of fewer than two values."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    quantile = T_95[min(len(values) - 1, len(T_95)) - 1]
    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def paired(first: Values, second: Values) -> list[float]:
    """The differences of the seeds that both have."""
    return [first[seed] - second[seed] for seed in sorted(set(first) & set(second))]


def measured(rows: dict[int, dict[str, str]], name: str = MEASURE) -> Values:
    """A column by seed; AP over all classes of a set in which none is frequent."""
    values = {seed: float(row[name]) for seed, row in rows.items()}
    if name == MEASURE and any(math.isnan(value) for value in values.values()):
        return measured(rows, "map_50")
    return values


def text(values: list[float], signed: bool = False) -> str:
    """Mean ± half interval and the count, in points of AP."""
    if not values or math.isnan(sum(values)):  # no boxes of this size
        return ""
    mean, half = mean_interval(values)
    number = f"{100 * mean:+.1f}" if signed else f"{100 * mean:.1f}"
    return f"{number} ± {100 * half:.1f} ({len(values)})" if len(values) > 1 else f"{number} (1)"


def tables(table: Table) -> str:
    """All tables as Markdown."""
    lines = [
        "# Tables of the evidence",
        "",
        "Made by `benchmarks/evidence/report.py` from `runs.csv`. AP@.5 in points, over the classes with at least 50",
        "boxes; ± is half of the 95 % interval (Student's t); seeds in brackets. Differences are paired by seed.",
    ]
    keys = sorted({(s, start, num) for s, _, start, num in table})
    for name in dict.fromkeys(key[0] for key in keys):
        lines += [
            "",
            f"## {name}",
            "",
            "| start | shapes | arm | AP@.5 | against baseline | against baseline + BN | "
            "AP | small | medium | large | mean best IoU | BPR |",
            "|" + "---|" * 12,
        ]
        for s, start, num in keys:
            if s != name:
                continue
            arms = sorted({arm for t, arm, u, n in table if (t, u, n) == (s, start, num)})
            for arm in arms:
                rows = table[s, arm, start, num]
                values = measured(rows)
                against = [
                    text(paired(values, measured(table.get((s, other, start, num), {}))), signed=True)
                    if other != arm
                    else ""
                    for other in (BASELINE, CONTROL)
                ]
                means = [
                    np.mean(list(measured(rows, c).values()))  # NaN where the set has no boxes of the size
                    for c in ("map", "map_50_small", "map_50_medium", "map_50_large", "mean_best_iou", "bpr")
                ]
                cells = [start, str(num), arm, text(list(values.values())), *against]
                cells += ["" if math.isnan(mean) else f"{100 * mean:.1f}" for mean in means[:4]] + [
                    f"{mean:.3f}" for mean in means[4:]
                ]
                lines.append("| " + " | ".join(cells) + " |")
    lines += [*learning(table), *choices(table), *ladder(table), *numbers_of_shapes(table), *spreads(table)]
    return "\n".join(lines) + "\n"


def learning(table: Table) -> list[str]:
    """What the gradient to the shapes adds: the full method less the same with fixed shapes, by size and by class."""
    lines = ["", "## Learned less fixed shapes, all else equal", ""]
    lines += [
        "| set | start | rate | AP@.5 | AP | small | medium | large | mean best IoU, fixed to learned |",
        "|" + "---|" * 9,
    ]
    classes = ["", "By class (VOC's AP@.5), the classes with an interval that excludes 0 in bold:", ""]
    for name, arm, start, num in sorted(table):
        fixed, full = table.get((name, FIXED, start, num)), table[name, arm, start, num]
        if arm not in RATES or fixed is None:
            continue
        measures = (MEASURE, "map", "map_50_small", "map_50_medium", "map_50_large")
        cells = [text(paired(measured(full, m), measured(fixed, m)), signed=True) for m in measures]
        fits = [np.mean(list(measured(rows, "mean_best_iou").values())) for rows in (fixed, full)]
        lines.append("| " + " | ".join([name, start, RATES[arm], *cells, f"{fits[0]:.3f} to {fits[1]:.3f}"]) + " |")
        found = []
        for label in dict.fromkeys(c for row in full.values() for c in by_class(row)):
            values = [{s: v[label] for s, r in rows.items() if label in (v := by_class(r))} for rows in (full, fixed)]
            differences = paired(*values)
            if len(differences) > 1:
                mean, half = mean_interval(differences)
                found.append((mean, label, f"{100 * mean:+.1f} ± {100 * half:.1f}", abs(mean) > half))
        if found:
            words = [f"**{label} {number}**" if sure else f"{label} {number}" for _, label, number, sure in found]
            classes.append(f"- {name}, {start}, {RATES[arm]}: {', '.join(words)}.")
    return [*lines, *classes]


def by_class(row: dict[str, str]) -> dict[str, float]:
    """AP by class of a run; empty for the first runs, which did not write it."""
    pairs = (pair.rsplit(" ", 1) for pair in row["by_class"].split("; ") if pair)
    return {name: float(value) for name, value in pairs}


def choices(table: Table) -> list[str]:
    """What the paper leaves open: the full method with another choice, less the full method."""
    lines = ["", "## Choices that the paper leaves open, less the full method", ""]
    lines += ["| set | start | choice | AP@.5 | AP | small | medium | large | mean best IoU |", "|" + "---|" * 9]
    for name, arm, start, num in sorted(table):
        full, rows = table.get((name, FULL, start, num)), table[name, arm, start, num]
        if not arm.startswith("full + ") or arm == FIXED or full is None:
            continue
        measures = (MEASURE, "map", "map_50_small", "map_50_medium", "map_50_large")
        cells = [text(paired(measured(rows, m), measured(full, m)), signed=True) for m in measures]
        fit = np.mean(paired(measured(rows, "mean_best_iou"), measured(full, "mean_best_iou")))
        lines.append("| " + " | ".join([name, start, arm.removeprefix("full + "), *cells, f"{fit:+.3f}"]) + " |")
    return lines


def ladder(table: Table) -> list[str]:
    """Table 6 of the paper: each arm, with the seeds that all of them have, less the one before it."""
    lines = ["", "## Table 6's ladder: each arm less the one before it", ""]
    lines += ["| set | start | " + " | ".join(LADDER) + " |", "|" + "---|" * (2 + len(LADDER))]
    for name, start in sorted({(key[0], key[2]) for key in table}):
        if not all((name, arm, start, 5) in table for arm in LADDER):
            continue
        values = [measured(table[name, arm, start, 5]) for arm in LADDER]
        common = set.intersection(*map(set, values))
        values = [{seed: v[seed] for seed in common} for v in values]
        steps = [text(paired(after, before), signed=True) for before, after in pairwise(values)]
        lines.append(f"| {name} | {start} | " + " | ".join([text(list(values[0].values())), *steps]) + " |")
    return lines


def numbers_of_shapes(table: Table) -> list[str]:
    """Fig. 4 of the paper: the arms by the number of shapes, with the seeds that all numbers have."""
    lines = ["", "## Numbers of shapes", ""]
    lines += ["| set | start | arm | shapes: AP@.5 | full less the arm, by number |", "|---|---|---|---|---|"]
    means = list[str]()
    for name, start, arm in sorted({(s, start, arm) for s, arm, start, num in table if num != 5}):
        nums = sorted(num for s, a, u, num in table if (s, a, u) == (name, arm, start))
        common = set.intersection(*(set(table[name, arm, start, num]) for num in nums))
        means, steps = [], list[str]()
        for num in nums:
            values = measured({seed: table[name, arm, start, num][seed] for seed in common})
            means.append(f"{num}: {text(list(values.values()))}")
            full = measured(table.get((name, FULL, start, num), {}))
            steps.append(f"{num}: {text(paired(full, values), signed=True)}")
        against = "" if arm == FULL else ", ".join(steps)
        lines.append(f"| {name} | {start} | {arm} | {', '.join(means)} | {against} |")
    return lines if means else []


def spreads(table: Table) -> list[str]:
    """How far the starts lie apart."""
    lines = ["", "## Spread over the starts", ""]
    lines += ["The largest less the smallest AP@.5 of a seed over the starts, points.", ""]
    lines += ["| set | arm | starts | spread |", "|---|---|---|---|"]
    for name in sorted({key[0] for key in table}):
        for arm in (BASELINE, CONTROL, FIXED, FULL, SLOW):
            starts = [s for s in ("kmeans", "uniform", "identical") if (name, arm, s, 5) in table]
            for several in (starts[:2], starts) if len(starts) > 2 else (starts,):
                values = [measured(table[name, arm, start, 5]) for start in several]
                seeds = set.intersection(*map(set, values)) if len(values) > 1 else set()
                apart = [max(v[seed] for v in values) - min(v[seed] for v in values) for seed in sorted(seeds)]
                if apart:
                    lines.append(f"| {name} | {arm} | {', '.join(several)} | {text(apart)} |")
    return lines


def forest(table: Table, path: Path) -> None:
    """Forest plot: set by set, the paired differences of arms with the same start."""
    names = list(dict.fromkeys(key[0] for key in sorted(table)))
    starts = ("kmeans", "uniform")
    figure, axes = plt.subplots(1, len(starts), figsize=(11, 1.2 + 0.9 * len(names)), sharex=True, sharey=True)
    for axis, start in zip(axes, starts, strict=True):
        for label, arm, other, colour, shift in PLOTTED:
            for place, name in enumerate(reversed(names)):
                keys = [(name, each, start, 5) for each in (arm, other)]
                if not all(key in table for key in keys):
                    continue
                differences = paired(*(measured(table[key]) for key in keys))
                if not differences:
                    continue
                mean, half = mean_interval(differences)
                axis.errorbar(
                    100 * mean,
                    place + shift,
                    xerr=None if math.isnan(half) else 100 * half,
                    fmt="o",
                    color=colour,
                    capsize=3,
                    label=label if place == 0 else None,
                )
                axis.scatter(
                    100 * np.array(differences), [place + shift] * len(differences), s=9, color=colour, alpha=0.35
                )
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(f"start: {start}")
        axis.set_yticks(range(len(names)), list(reversed(names)))
        axis.set_xlabel("difference of AP@.5, points")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.25 / figure.get_figheight(), 1, 1))
    figure.legend(handles, labels, loc="lower center", ncols=len(PLOTTED), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Writes the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=FOLDER / "runs.csv")
    parser.add_argument("--output", type=Path, default=FOLDER)
    args = parser.parse_args()
    table = read(args.runs)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "tables.md").write_text(tables(dict(table)))
    forest(dict(table), args.output / "forest.png")


if __name__ == "__main__":
    main()
