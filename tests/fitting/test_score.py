"""Scores by hand, and against the functions that measure the same elsewhere here."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.score import group_means, judge, score_shapes, size_groups

SIDES = st.floats(1, 500, width=32)
SHAPES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=8)


def test_by_hand() -> None:
    """IoU of (10, 10) with (10, 20) is 0.5, of (40, 10) with (10, 20) is 100 / 500, of (10, 90) with it 200 / 900."""
    boxes = torch.tensor([[10.0, 10.0], [40.0, 10.0], [10.0, 90.0], [100.0, 50.0]])
    score = score_shapes(boxes, torch.tensor([[10.0, 20.0], [100.0, 50.0]]))
    torch.testing.assert_close(score.best_iou, torch.tensor([0.5, 0.2, 2 / 9, 1.0], dtype=torch.float64))
    assert score.mean_best_iou == pytest.approx((0.5 + 0.2 + 2 / 9 + 1) / 4)
    assert score.recall_iou == 0.5, "0.5 itself counts"
    # (40, 10) is 2.5 and 5 times off, but 4 times and 2 times, and 4 is not below 4; (10, 90) is 4.5 times off.
    assert score.recall_ratio == 0.5
    assert score_shapes(boxes, torch.tensor([[10.0, 20.0]]), ratio_threshold=4.6).recall_ratio == 0.75
    # YOLOv5's fitness: the smaller ratio of sides, 1/2 and 1, and 0 where it is not above 1/4.
    assert score.ratio_fitness == pytest.approx((0.5 + 0 + 0 + 1) / 4)
    assert score.usage.tolist() == [0.75, 0.25]
    nothing = score_shapes(torch.empty(0, 2), torch.ones(3, 2))
    assert math.isnan(nothing.mean_best_iou) and math.isnan(nothing.recall_ratio) and nothing.usage.tolist() == [0] * 3


@settings(deadline=None, max_examples=50)
@given(SHAPES, SHAPES, st.floats(0.1, 10))
def test_agrees_with_the_mean_best_iou_and_knows_no_unit(
    boxes: list[tuple[float, float]], shapes: list[tuple[float, float]], scale: float
) -> None:
    box_wh, wh = torch.tensor(boxes, dtype=torch.float64), torch.tensor(shapes, dtype=torch.float64)
    score, scaled = score_shapes(box_wh, wh), score_shapes(box_wh * scale, wh * scale)
    assert score.mean_best_iou == pytest.approx(mean_best_iou(box_wh, wh))
    assert score.mean_best_iou == pytest.approx(scaled.mean_best_iou)
    assert float(score.usage.sum()) == pytest.approx(1)
    assert score_shapes(box_wh, box_wh).mean_best_iou == pytest.approx(1)
    more = score_shapes(box_wh, torch.cat([wh, box_wh[:1]]))
    assert more.mean_best_iou >= score.mean_best_iou and more.recall_ratio >= score.recall_ratio
    # A shape within half of each side's ratio of 2 covers at least a quarter of the union.
    within_two = score_shapes(box_wh, wh, iou_threshold=0.25, ratio_threshold=2)
    assert within_two.recall_ratio <= within_two.recall_iou


def test_sizes_are_cocos_limits_and_groups_have_means() -> None:
    sides = torch.tensor([[31.9, 32.0], [32.0, 32.0], [16.0, 64.0], [95.9, 96.0], [96.0, 96.0], [400.0, 400.0]])
    assert size_groups(sides).tolist() == [0, 1, 1, 1, 2, 2]
    mean, count = group_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
    assert mean[[0, 2]].tolist() == [2, 5] and math.isnan(mean[1]) and count.tolist() == [2, 0, 1]


def test_a_verdict_compares_with_fitted_shapes() -> None:
    """Half of the boxes are 5 times as wide as the first shape; the second set is what they are."""
    boxes = torch.tensor([[10.0, 10.0], [50.0, 10.0]]).repeat(20, 1)
    poor, good = judge(boxes, torch.tensor([[10.0, 10.0], [9.0, 9.0]])), judge(boxes, boxes[:2])
    assert not (poor.covers or poor.is_fitted or poor.is_good) and poor.reachable == pytest.approx(1, abs=0.01)
    assert good.covers and good.is_fitted and good.is_good
    one = judge(boxes, boxes[:1])
    assert one.is_fitted and not one.covers, "no single shape is better, but it is 5 times too narrow for half"
    alone = judge(boxes, torch.tensor([[10.0, 10.0]] * 3))
    assert math.isnan(alone.reachable) and alone.is_fitted and not alone.covers, "three shapes, two kinds of boxes"


@pytest.mark.parametrize("thresholds", [{"iou_threshold": 0.0}, {"iou_threshold": 1.1}, {"ratio_threshold": 1.0}])
def test_thresholds_out_of_range(thresholds: dict[str, float]) -> None:
    with pytest.raises(UserError, match="threshold: "):
        score_shapes(torch.ones(1, 2), torch.ones(1, 2), **thresholds)
