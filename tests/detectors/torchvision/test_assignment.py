"""δ of Eq. 1 where a matcher decides: numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from anchor_lightning.anchors.assignment import Distance
from anchor_lightning.detectors.torchvision.assignment import assign_matched

# Two levels: shapes 0 (10 x 10) and 1 (20 x 20), and 2 (40 x 40). Seven anchors, of which two have no box.
LOG_WH = torch.tensor([[10.0, 10.0], [20.0, 20.0], [40.0, 40.0]]).log()
LEVEL_OF_SHAPE = torch.tensor([0, 0, 1])
SHAPE_OF_ANCHOR = torch.tensor([0, 1, 0, 1, 0, 1, 2])
# Box 0 of 20 x 18 has two positives of shape 1 and one of shape 0, box 1 has one of shape 0, box 2 none.
MATCHED = torch.tensor([0, 0, 1, 0, -1, -2, -1])
BOXES = torch.tensor([[20.0, 18.0], [12.0, 9.0], [400.0, 400.0]]).log()


def test_the_nearest_positive_shape_answers_for_a_box_and_each_box_counts_once() -> None:
    found = assign_matched(MATCHED, SHAPE_OF_ANCHOR, LEVEL_OF_SHAPE, BOXES, LOG_WH)
    assert found.anchor.tolist() == [0, 1, 2, 3] and found.shape.tolist() == [0, 1, 0, 1]
    assert found.delta.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert found.share.tolist() == [0, 0.5, 1, 0.5]  # box 0 over two anchors of shape 1, none for shape 0


def test_the_levels_of_a_box_are_one_choice() -> None:
    """A box of 30 x 30 with positives on both levels moves the shape that fits it better, whichever level it is on."""
    matched = torch.tensor([-1, 0, -1, -1, -1, 0, 0])
    for side, shape in ((26.0, 1), (32.0, 2)):
        box = torch.tensor([[side, side]]).log()
        found = assign_matched(matched, SHAPE_OF_ANCHOR, LEVEL_OF_SHAPE, box, LOG_WH)
        assert found.delta.argmax().item() == shape
        assert found.share.tolist() == ([0.5, 0.5, 0] if shape == 1 else [0, 0, 1])


def test_a_shape_without_a_positive_does_not_answer_though_it_fits_best() -> None:
    matched = torch.tensor([0, -1, -1, -1, -1, -1, -1])  # only shape 0 is placed well
    found = assign_matched(matched, SHAPE_OF_ANCHOR, LEVEL_OF_SHAPE, BOXES[:1], LOG_WH)
    assert found.delta.tolist() == [[1, 0, 0]] and found.share.tolist() == [1]


@pytest.mark.parametrize("distance", ["iou", "l2"])
def test_softly_all_shapes_of_the_boxs_level_answer(distance: Distance) -> None:
    temperature = torch.tensor(0.5)
    found = assign_matched(MATCHED, SHAPE_OF_ANCHOR, LEVEL_OF_SHAPE, BOXES, LOG_WH, temperature, distance)
    likeness = [100 / 360, 360 / 400]
    if distance == "l2":
        likeness = [-(math.log(2) ** 2) - math.log(1.8) ** 2, -(math.log(18 / 20) ** 2)]
    shares = torch.tensor(likeness).div(0.5).softmax(0)
    torch.testing.assert_close(found.delta[0], torch.tensor([*shares.tolist(), 0.0]))  # shape 2: another level
    assert not found.delta[2].any()
    # Of box 1 shape 1 has no positive: its part of δ moves it by the clustering term alone.
    expected = torch.stack([shares[0], shares[1] / 2, found.delta[1, 0], shares[1] / 2])
    torch.testing.assert_close(found.share, expected)
    assert 0.5 < found.delta[1, 0] < 1


def test_no_positive_at_all() -> None:
    for boxes in (BOXES, BOXES[:0]):
        found = assign_matched(torch.full((7,), -1), SHAPE_OF_ANCHOR, LEVEL_OF_SHAPE, boxes, LOG_WH, 0.5)
        assert found.delta.shape == (len(boxes), 3) and not found.delta.any() and found.share.shape == (0,)
