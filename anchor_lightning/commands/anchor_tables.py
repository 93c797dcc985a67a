"""The tables of `anchors fit` and `anchors score`: aligned text, units stated; BPR is the best possible recall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from torch import Tensor

from anchor_lightning.fitting.formats import AnchorSet
from anchor_lightning.fitting.score import SIZE_NAMES, AnchorScore, group_means

SIZE_RANGES: Final = ("area below 32²", "32² to 96²", "96² and more")
SIZE_LABELS: Final = [f"{name}, {limits}" for name, limits in zip(SIZE_NAMES, SIZE_RANGES, strict=True)]
MAX_LABEL: Final = 28


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells)
        ).rstrip()
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )


def named_values(score: AnchorScore, ratio_threshold: float) -> dict[str, float]:
    """The three numbers of a score by their names."""
    return {
        "mean best IoU": score.mean_best_iou,
        "BPR at IoU 0.5": score.recall_iou,
        f"BPR at ratio {ratio_threshold:g}": score.recall_ratio,
    }


def anchor_table(anchors: AnchorSet, score: AnchorScore) -> str:
    """Table of shapes: sides in pixels of the network input, the share of the boxes that each serves best, level.

    The lines are in the order of the areas; `anchor` is the shape's index in the set, which is the model's own.
    """
    order = _by_area(anchors).tolist()
    per_level = len(order) // anchors.levels
    rows = [["anchor", "width", "height", "usage", *(["level"] if anchors.levels > 1 else [])]]
    for place, index in enumerate(order):
        w, h = anchors.wh[index].tolist()
        level = [str(place // per_level)] if anchors.levels > 1 else []
        rows.append([str(index), f"{w:.1f}", f"{h:.1f}", f"{float(score.usage[index]):.1%}", *level])
    return aligned(rows)


def score_table(
    labels: Sequence[str],
    scores: Sequence[AnchorScore],
    ratio_threshold: float,
    sizes: Tensor,
    classes: Tensor,
    class_names: Sequence[str],
    augmented: Sequence[float],
) -> str:
    """A column a set of shapes: the three numbers, also by size and by class.

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
    total = str(len(sizes))
    values = [named_values(score, ratio_threshold) for score in scores]
    rows += [[name, total, *(f"{value[name]:.4f}" for value in values)] for name in values[0]]
    if augmented:
        rows.append(["mean best IoU, boxes as training augments them", "", *(f"{value:.4f}" for value in augmented)])
    best = [score.best_iou for score in scores]
    recalled = [(iou >= 0.5).double() for iou in best]
    within = [score.within_ratio.double() for score in scores]
    for kind, groups, names in (("size", sizes, SIZE_LABELS), ("class", classes, class_names)):
        unit = " (pixels of the network input)" if kind == "size" else ""
        rows += _group_rows(f"mean best IoU by {kind}{unit}", groups, names, best)
        rows += _group_rows(f"BPR at IoU 0.5 by {kind}{unit}", groups, names, recalled)
        rows += _group_rows(f"BPR at ratio {ratio_threshold:g} by {kind}{unit}", groups, names, within)
    return aligned(rows)


def usage_table(
    anchors: AnchorSet, score: AnchorScore, sizes: Tensor, classes: Tensor, class_names: Sequence[str]
) -> str:
    """Of the boxes of every size and class, the share that each shape serves best.

    A column a shape, in the order and with the indices of `anchor_table`.

    Args:
        anchors: The shapes.
        score: Of the shapes.
        sizes: (N,) size group of every box.
        classes: (N,) class of every box.
        class_names: Names of the classes; those without boxes are left out.
    """
    num, order = len(score.usage), _by_area(anchors)
    rows = [["usage by size and class", "boxes", *(f"anchor {index}" for index in order.tolist())]]
    for groups, names in ((sizes, SIZE_LABELS), (classes, class_names)):
        for index, name in enumerate(names):
            best = score.best_anchor[groups == index]
            if len(best):
                shares = (best.bincount(minlength=num) / len(best))[order].tolist()
                rows.append([f"  {name}", str(len(best)), *(f"{share:.1%}" for share in shares)])
    return aligned(rows)


def _by_area(anchors: AnchorSet) -> Tensor:
    """(A,) indices of the shapes in the order in which the tables show them."""
    return anchors.wh.prod(1).argsort(stable=True)


def _group_rows(title: str, groups: Tensor, names: Sequence[str], values: Sequence[Tensor]) -> list[list[str]]:
    """The mean of every set's values in each group that has boxes."""
    rows = [[title, "", *("" for _ in values)]]
    means = [group_means(value, groups, len(names)) for value in values]
    counts = means[0][1].tolist()
    for index, name in enumerate(names):
        if counts[index]:
            rows.append([f"  {name}", str(counts[index]), *(f"{float(mean[index]):.4f}" for mean, _ in means)])
    return rows


def short_labels(given: Sequence[str]) -> list[str]:
    """A short name, of its own, for each `--shapes`: a run's or file's last parts, `pairs` for a list of pairs."""
    labels: list[str] = []
    for text in given:
        parts = Path(text).parts
        label = "pairs" if text.lstrip().startswith("[") else str(Path(*parts[-2:])) if parts else text
        label = label if len(label) <= MAX_LABEL else f"…{label[1 - MAX_LABEL :]}"
        number = 2
        unique = label
        while unique in labels:
            unique, number = f"{label} ({number})", number + 1
        labels.append(unique)
    return labels
