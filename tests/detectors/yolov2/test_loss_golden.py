"""The region loss against the gradients that the C region layer itself computed (`c_region_layer.npz`).

The numbers are those of pjreddie's darknet (commit f6afaab, CPU, float32) on made input: thresh 0.6, rescore, softmax,
object_scale 5, noobject_scale, coord_scale and class_scale 1, bias_match 1. For each batch the file has minus the
layer's delta, times the derivative of the logistic: the gradient at the raw output. What both sides share and do not:

- Batch size: ours is a mean over the B images, the C layer's a sum, so that ours is multiplied by B.
- Prior: below 12,800 images seen, the C layer pulls every anchor without a box to its cell's centre and its own shape
  with 0.01; here the caller decides that, by `prior` (`square_prior` is below, the other batches are beyond).
- Objectness: in both an anchor whose predicted box has an IoU above 0.6 with any box has no no-object term (one anchor
  of `square`, with a gradient of 0), and the target of a box's anchor is the IoU of what it predicts.
- Small boxes: both weigh xy and wh with 2 - w h, w and h as shares of the image (`wide` has 320 x 192 pixels).
- Padding: the C layer stops at the first box whose x is 0; here padded rows have a label of -1, and a mask.
- One class: the softmax over a single class is 1, and has no gradient.
- Collisions: where two boxes fall on one anchor of one cell the C layer overwrites the first box's delta with the
  last's; here both count, as in the paper's sums. That is the one difference in the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from torch import Tensor

from anchor_lightning.anchors import assign
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.structures import DetectionBatch, Predictions

STRIDE: Final = 32
PRIOR_IMAGES: Final = 12800
TOLERANCE: Final = {"rtol": 1e-6, "atol": 1e-6}  # the C layer computes in float32


def golden(name: str) -> dict[str, Tensor]:
    """What the file holds of a batch, numbers as float64: what goes in, and `gradient`, (B, A, 5 + C, H, W)."""
    with np.load(Path(__file__).with_name("c_region_layer.npz")) as file:
        kinds = ("raw", "boxes_xyxy", "labels", "anchors_wh", "seen", "gradient")
        found = {kind: torch.from_numpy(file[f"{name}_{kind}"]) for kind in kinds}
    return {kind: value.double() if value.is_floating_point() else value for kind, value in found.items()}


def gradient_of_ours(case: dict[str, Tensor], kept: slice = slice(None)) -> Tensor:
    """The gradient of B times our loss at the raw output, of the boxes `kept` of every image alone."""
    boxes, labels = case["boxes_xyxy"][:, kept], case["labels"][:, kept]
    empty = torch.zeros(len(boxes))
    batch = DetectionBatch(empty, boxes, labels, labels >= 0, empty, empty, empty)
    raw, log_wh = case["raw"].clone().requires_grad_(), case["anchors_wh"].log()
    assignment = assign(log_wh, batch.boxes_xyxy, batch.mask, (raw.shape[-2], raw.shape[-1]), STRIDE)
    prior = float(case["seen"] < PRIOR_IMAGES)
    terms = region_loss(Predictions(raw, STRIDE), batch, assignment, log_wh, prior)
    (gradient,) = torch.autograd.grad(torch.stack(list(terms.values())).sum() * len(raw), raw)
    return gradient


@pytest.mark.parametrize("name", ["square_prior", "square", "wide", "one_class"])
def test_gradient_is_that_of_the_c_code(name: str) -> None:
    case = golden(name)
    torch.testing.assert_close(gradient_of_ours(case), case["gradient"], **TOLERANCE)


def test_at_a_collision_the_c_code_keeps_the_last_box() -> None:
    """The first two boxes share a cell and an anchor: all 8 channels of that anchor differ, and no other number does.

    Without the first of them there is no difference left.
    """
    case = golden("collision")
    is_close = gradient_of_ours(case).isclose(case["gradient"], **TOLERANCE)
    assert (~is_close).nonzero().tolist() == [[0, 0, channel, 1, 1] for channel in range(8)]
    torch.testing.assert_close(gradient_of_ours(case, kept=slice(1, None)), case["gradient"], **TOLERANCE)


def test_the_batches_hold_what_they_are_for() -> None:
    """An anchor that is ignored, two sides of the grid, and one class."""
    square = golden("square")
    assert (square["gradient"][:, :, 4] == 0).sum() == 1
    assert golden("wide")["raw"].shape[-2:] == (6, 10)
    assert golden("one_class")["raw"].shape[2] == 6
    assert (golden("square_prior")["seen"], square["seen"]) == (0, 20000)
