"""Precision over recall and the confusion matrix of a detector as pictures.

Figures need no pyplot and no display. Shape letters: C classes, R levels of recall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text

from anchor_lightning.visualization.axes import FAINT, INK, PAPER
from anchor_lightning.visualization.palette import LINE_COLOURS

SHADES = LinearSegmentedColormap.from_list("shades", [PAPER, "#56B4E9", "#0072B2", "#00334f"])
BACKGROUND = "background"
MAX_NAMED = 10  # curves that can be told apart
MAX_WRITTEN = 30  # classes with whose numbers a picture can still be read
DARK = 0.45  # shade from which on letters are white


def precision_recall_figure(
    recall: np.ndarray, precision: np.ndarray, class_names: Sequence[str], title: str
) -> Figure:
    """Precision over recall of each class, and their mean.

    Of more than ten classes the mean and the five that are found worst have a name, the others are grey.

    Args:
        recall: (R,) in [0, 1], rising.
        precision: (C, R) in [0, 1], as COCO reads it; NaN for a class without ground truth, which is left out.
        class_names: C names.
        title: A line above the figure.
    """
    figure, axes = _figure((7.2, 4.8), title)
    averages = precision.mean(axis=1)
    measured = [int(label) for label in np.argsort(-averages, kind="stable") if not math.isnan(averages[label])]
    named = measured if len(measured) <= MAX_NAMED else measured[-MAX_NAMED // 2 :]
    lines, labels = [], []
    if len(measured) > 1:
        mean = precision[measured].mean(axis=0)
        lines += axes.plot(recall, mean, color=INK, linewidth=2.6, zorder=5)
        labels.append(f"{mean.mean():.3f}  mean of {len(measured)} classes")
    for label in measured:
        if label not in named:
            axes.plot(recall, precision[label], color="#c9ced6", linewidth=0.9, zorder=1)
    for place, label in enumerate(named):
        colour, dash = LINE_COLOURS[place % len(LINE_COLOURS)], ("-", "--")[place // len(LINE_COLOURS)]
        lines += axes.plot(recall, precision[label], color=colour, linestyle=dash, linewidth=1.6, zorder=4)
        labels.append(f"{averages[label]:.3f}  {class_names[label]}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xlabel("recall", color=INK)
    axes.set_ylabel("precision", color=INK)
    axes.grid(True, color="#e3e3e3", linewidth=0.6)
    if lines:
        legend = axes.legend(
            lines, labels, title="AP, class", loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
        )
        legend.set_alignment("left")
        _plain(legend.get_texts())
    return figure


def confusion_figure(matrix: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """A confusion matrix, with the number of boxes in each cell of up to thirty classes.

    The shade is the share of the row's ground truth boxes; in the last row, which has none, of the column's detections.

    Args:
        matrix: (C + 1, C + 1) numbers, ground truth by detection, the last of each the background.
        class_names: C names.
        title: A line above the figure.
    """
    names, size = [*class_names, BACKGROUND], len(matrix)
    shade = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shade[-1] = matrix[-1] / np.maximum(matrix.sum(axis=0), 1)
    side = min(4.2 + 0.45 * size, 18.0)
    figure, axes = _figure((side + 1.6, side), title)
    image = axes.imshow(shade, cmap=SHADES, vmin=0, vmax=1)
    letters = max(4.0, min(10.0, 260 / size))
    axes.set_xticks(range(size), names, rotation=90 if size > 5 else 0, fontsize=letters)
    axes.set_yticks(range(size), names, fontsize=letters)
    _plain([*axes.get_xticklabels(), *axes.get_yticklabels()])
    axes.set_xlabel("detected", color=INK)
    axes.set_ylabel("ground truth", color=INK)
    for line in (axes.axhline, axes.axvline):
        line(size - 1.5, color=FAINT, linewidth=1.0)
    for row, column in np.ndindex(size, size) if size <= MAX_WRITTEN + 1 else ():
        is_empty = row == column == size - 1  # neither box nor detection cannot be counted
        text = "" if is_empty else f"{matrix[row, column]:,}"
        colour = PAPER if shade[row, column] > DARK else INK if matrix[row, column] else FAINT
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=letters)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the row; in the last row, of the column", color=INK)
    return figure


def _figure(size: tuple[float, float], title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
    axes = figure.add_subplot(facecolor=PAPER)
    axes.set_title(title, color=INK, fontsize=11)
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.8)
    return figure, axes


def _plain(texts: Sequence[Text]) -> None:
    """A `$` in the name of a class is a letter, not mathematics."""
    for text in texts:
        text.set_parse_math(False)
