"""Each objective is climbed best by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anchor_lightning.errors import UserError
from anchor_lightning.fitting import ascent_shapes, fit_shapes
from anchor_lightning.fitting.objectives import best_fit, side_ratio, worth
from anchor_lightning.fitting.score import score_shapes


def test_by_hand() -> None:
    """(40, 10) is 4 times as wide as (10, 10) and as high: 1/4, which is out of YOLOv5's reach."""
    ratio = side_ratio(torch.tensor([[40.0, 10.0], [20.0, 10.0], [10.0, 30.0]]), torch.tensor([10.0, 10.0]))
    torch.testing.assert_close(ratio, torch.tensor([0.25, 0.5, 1 / 3]))
    assert worth(ratio, "ratio").tolist() == pytest.approx([0, 0.5, 1 / 3])
    assert worth(ratio, "iou").tolist() == ratio.tolist()


@pytest.mark.parametrize("num", [3, 6])
def test_each_is_best_by_its_own_measure(voc_boxes: Tensor, num: int) -> None:
    boxes = voc_boxes[::7]
    by_iou, by_ratio = (ascent_shapes(boxes, num, objective=objective) for objective in ("iou", "ratio"))
    assert best_fit(boxes, by_iou, "iou") > best_fit(boxes, by_ratio, "iou")
    assert best_fit(boxes, by_ratio, "ratio") > best_fit(boxes, by_iou, "ratio")
    assert best_fit(boxes, by_ratio, "ratio") == pytest.approx(score_shapes(boxes, by_ratio).ratio_fitness)


def test_other_methods_know_one() -> None:
    boxes = torch.rand(20, 2) + 1
    with pytest.raises(UserError, match="objective: ratio is climbed by the method ascent only, not by kmeans"):
        fit_shapes(boxes, 2, "kmeans", objective="ratio")
