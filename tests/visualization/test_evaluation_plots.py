"""Pictures of precision by recall and of the confusion matrix: what stands in them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from anchor_lightning.visualization.anchor_plots import save_figure
from anchor_lightning.visualization.evaluation_plots import confusion_figure, precision_recall_figure

RECALL = np.array([0.0, 0.5, 1.0])


def texts(precision: list[list[float]], names: list[str]) -> list[str]:
    (axes,) = precision_recall_figure(RECALL, np.array(precision), names, "at IoU 0.5").axes
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_classes_stand_in_the_order_of_their_average_precision() -> None:
    """The mean of 0.3 and 0.9; a class without boxes has no curve."""
    precision = [[0.6, 0.3, 0.0], [np.nan] * 3, [1.0, 0.9, 0.8]]
    assert texts(precision, ["cat", "cow", "_dog"]) == ["0.600  mean of 2 classes", "0.900  _dog", "0.300  cat"]
    assert texts(precision[:1], ["cat"]) == ["0.300  cat"]
    assert texts(precision[1:2], ["cow"]) == []


def test_of_many_classes_the_worst_have_a_name() -> None:
    shown = texts([[place / 12] * 3 for place in range(12)], [f"class {place}" for place in range(12)])
    assert [text.split("  ")[1] for text in shown[1:]] == [f"class {place}" for place in (4, 3, 2, 1, 0)]


def test_the_cells_of_a_confusion_matrix() -> None:
    """Rows are shares of the ground truth, the last one of the detections of a class."""
    figure = confusion_figure(np.array([[3, 0, 1], [0, 0, 0], [1, 2, 0]]), ["cat", "dog"], "score 0.3, IoU 0.5")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "0", "1", "0", "0", "0", "1", "2", ""]
    assert axes.images[0].get_array().tolist() == [[0.75, 0, 0.25], [0, 0, 0], [0.25, 1, 0]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("detected", "ground truth")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "background"]
    assert axes.get_title() == "score 0.3, IoU 0.5"


@pytest.mark.parametrize("count", [1, 3, 80])
def test_any_number_of_classes_with_any_names_is_drawn(count: int, tmp_path: Path) -> None:
    names = [f"$a_{{ {place}" for place in range(count)]
    figures = (
        precision_recall_figure(RECALL, np.full((count, 3), 0.5), names, "title"),
        confusion_figure(np.eye(count + 1, dtype=np.int64), names, "title"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in figures:
            save_figure(figure, tmp_path / "figure.png")
