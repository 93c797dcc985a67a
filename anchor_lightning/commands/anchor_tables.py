"""The tables of `anchors fit` and `anchors score`: aligned text, units stated; BPR is the best possible recall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from torch import Tensor

from anchor_lightning.fitting.formats import AnchorSet
from anchor_lightning.fitting.score import AnchorScore, Verdict, group_means

SIZE_LABELS: Final = ("small, area below 32²", "medium, 32² to 96²", "large, 96² and more")
MAX_LABEL: Final = 28


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def named_values(score: AnchorScore, ratio_threshold: float) -> dict[str, float]:
    """The numbers of a score by their names."""
    return {
        "mean best IoU": score.mean_best_iou,
        "BPR at IoU 0.5": score.recall_iou,
        f"BPR at ratio {ratio_threshold:g}": score.recall_ratio,
        f"fitness at ratio {ratio_threshold:g}": score.ratio_fitness,
    }


def size_text(image_size: tuple[int, int]) -> str:
    """Height and width of the network input in words."""
    return f"{image_size[1]} x {image_size[0]} pixels (w x h)"


def summary_table(labels: Sequence[str], scores: Sequence[AnchorScore], ratio_threshold: float) -> str:
    """Three lines, with a column for each of several sets: both recalls and the mean best IoU."""
    rows = [[name, *texts] for name, texts in _summary(scores, ratio_threshold).items()]
    return aligned(rows if len(scores) == 1 else [["", *labels], *rows])


def best_text(labels: Sequence[str], scores: Sequence[AnchorScore], ratio_threshold: float) -> str:
    """Which of several sets is best by which measure of `summary_table`, as it shows them, in a line."""
    measures: dict[tuple[int, ...], list[str]] = {}  # sets that share the highest value -> measures
    for name, texts in _summary(scores, ratio_threshold).items():
        best = tuple(at for at, text in enumerate(texts) if text == max(texts))
        measures.setdefault(best, []).append(name)
    numbers = [len(score.usage) for score in scores]
    if len(set(numbers)) > 1:
        counts = [f"{number} shape{'s' * (number > 1)}" for number in numbers]
        labels = [f"{label} ({count})" for label, count in zip(labels, counts, strict=True)]
    if len(measures) == 1:
        ((best, _),) = measures.items()
        return f"Best: {' and '.join(labels[at] for at in best)} by every measure"
    parts = [f"{' and '.join(labels[at] for at in best)} by {' and '.join(names)}" for best, names in measures.items()]
    disagree = "" if set.intersection(*map(set, measures)) else "; the measures disagree"
    return f"Best: {'; '.join(parts)}{disagree}"


def _summary(scores: Sequence[AnchorScore], ratio_threshold: float) -> dict[str, list[str]]:
    """The measures that `anchors score` always shows, with the text of each set's value."""
    values = [named_values(score, ratio_threshold) for score in scores]
    names = ("mean best IoU", "BPR at IoU 0.5", f"BPR at ratio {ratio_threshold:g}")
    return {name: [f"{value[name]:.4f}" for value in values] for name in names}


def verdict_text(verdict: Verdict, score: AnchorScore, levels: int) -> str:
    """Good or poor, why, and what to do, in a line; `levels` are those of the set."""
    if verdict.is_good:
        return "good: as many shapes fitted to these boxes are hardly better; nothing to do"
    shapes = len(score.usage)
    num = -(-shapes // levels) * levels  # fitted shapes are divided equally, those of a file may not be
    spread = f" --levels {levels}" if levels > 1 else ""
    reasons, todo = [], f"fit more shapes, anchors fit --num {num}..{num + 8 * levels}{spread} shows how many"
    if not verdict.covers:
        reasons.append("fewer than 98 % of the boxes are within 4 times a shape")
    if not verdict.is_fitted:
        reasons.append(f"{shapes} shapes fitted to these boxes reach mean best IoU {verdict.reachable:.4f}")
        todo = f"fit them, anchors fit --num {num}{spread}"
    return f"poor: {' and '.join(reasons)}; {todo}"


def anchor_table(anchors: AnchorSet, score: AnchorScore) -> str:
    """Table of shapes: sides in pixels of the network input, the share of the boxes that each serves best, level.

    The lines are in the order of the set, which is the model's own.
    """
    rows = [["anchor", "width", "height", "usage", "level"]]
    shapes = zip(anchors.wh.tolist(), score.usage.tolist(), anchors.level_of, strict=True)
    for index, ((w, h), usage, level) in enumerate(shapes):
        rows.append([str(index), f"{w:.1f}", f"{h:.1f}", f"{usage:.1%}", str(level)])
    return aligned(rows if anchors.levels > 1 else [row[:-1] for row in rows])


def score_table(
    labels: Sequence[str],
    scores: Sequence[AnchorScore],
    ratio_threshold: float,
    sizes: Tensor,
    classes: Tensor,
    class_names: Sequence[str],
    augmented: Sequence[float],
) -> str:
    """A column a set of shapes: the numbers of `named_values`, also by size and by class.

    Args:
        labels: Heads of the columns.
        scores: One a set.
        ratio_threshold: Of the recall by ratio.
        sizes: (N,) size group of every box.
        classes: (N,) class of every box.
        class_names: Names of the classes; those without boxes are left out.
        augmented: Mean best IoU of every set on the boxes as training augments them; empty leaves the line out.
    """
    rows = [["", "boxes", *labels], ["shapes", "", *(str(len(score.usage)) for score in scores)]]
    values = [named_values(score, ratio_threshold) for score in scores]
    rows += [[name, str(len(sizes)), *(f"{value[name]:.4f}" for value in values)] for name in values[0]]
    if augmented:
        rows.append(["mean best IoU, boxes as training augments them", "", *(f"{value:.4f}" for value in augmented)])
    best = [score.best_iou for score in scores]
    measured = [best, [iou >= 0.5 for iou in best]]
    measured += [[score.within_ratio for score in scores], [score.ratio_fit for score in scores]]
    for kind, groups, names in (
        ("size (pixels of the network input)", sizes, SIZE_LABELS),
        ("class", classes, class_names),
    ):
        for measure, by_box in zip(values[0], measured, strict=True):
            rows.append([f"{measure} by {kind}", "", *("" for _ in labels)])
            means, counts = zip(*(group_means(value, groups, len(names)) for value in by_box), strict=True)
            for index, count in enumerate(counts[0].tolist()):
                if count:
                    rows.append([f"  {names[index]}", str(count), *(f"{float(mean[index]):.4f}" for mean in means)])
    return aligned(rows)


def usage_table(score: AnchorScore, sizes: Tensor, classes: Tensor, class_names: Sequence[str]) -> str:
    """Of the boxes of every size and class, the share that each shape serves best.

    A column a shape, in the order of the set; for the arguments see `score_table`.
    """
    num = len(score.usage)
    rows = [["usage by size and class", "boxes", *(f"anchor {index}" for index in range(num))]]
    for groups, names in ((sizes, SIZE_LABELS), (classes, class_names)):
        for index, name in enumerate(names):
            if len(best := score.best_anchor[groups == index]):
                shares = best.bincount(minlength=num) / len(best)
                rows.append([f"  {name}", str(len(best)), *(f"{share:.1%}" for share in shares.tolist())])
    return aligned(rows)


def short_labels(given: Sequence[str]) -> list[str]:
    """A short name for each `--shapes`: its end, or `pairs` for a list of pairs; numbered where two are the same."""
    labels = ["pairs" if text.lstrip().startswith("[") else str(Path(*Path(text).parts[-2:])) for text in given]
    labels = [label if len(label) <= MAX_LABEL else f"…{label[1 - MAX_LABEL :]}" for label in labels]
    unique = len(set(labels)) == len(labels)
    return labels if unique else [f"{number}: {label}" for number, label in enumerate(labels, start=1)]
