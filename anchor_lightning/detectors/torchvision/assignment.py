"""δ of Eq. 1 where a matcher decides which placed anchors are positives: a box counts once, whatever its size.

Shape letters: N anchors of an image, A shapes over all levels, M boxes of an image, P positive anchors of an image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anchor_lightning.anchors.assignment import HARD_TEMPERATURE, Distance, similarity, soft_or_hard


class MatchedShapes(NamedTuple):
    """How the shapes answer for the boxes of one image; constant for the backward pass.

    Args:
        anchor: (P,) int64, which of the image's anchors are positives.
        shape: (P,) int64, the shape of each.
        share: (P,) >= 0, the share of each in its box; with the hard assignment a box's shares sum to 1.
        delta: (M, A) >= 0, δ; rows sum to 1, and are 0 for boxes without a positive anchor.
    """

    anchor: Tensor
    shape: Tensor
    share: Tensor
    delta: Tensor


@torch.no_grad()
def assign_matched(
    matched: Tensor,
    shape_of_anchor: Tensor,
    level_of_shape: Tensor,
    box_log_wh: Tensor,
    log_wh: Tensor,
    temperature: Tensor | float = 0.0,
    distance: Distance = "iou",
) -> MatchedShapes:
    """δ over the shapes, and what it makes of each positive anchor.

    A matcher takes every placed anchor above an IoU, dozens for an object of an anchor's size and one for a small one.
    Here a box counts once: δ goes to the nearest of the shapes that have a positive anchor for the box; softly (Eq. 10)
    to all shapes of the levels that have one. A shape's δ is shared evenly among its positives for the box. Shapes that
    are positive but not the nearest are not moved by the box, as in YOLOv2 (Eq. 1).

    Args:
        matched: (N,) int64 index of each anchor's box, below 0 for those without.
        shape_of_anchor: (N,) int64.
        level_of_shape: (A,) int64.
        box_log_wh: (M, 2) log widths and heights of the boxes in pixels.
        log_wh: (A, 2) of the shapes in pixels.
        temperature: T of Eq. 10, as of `anchors.assign`; below 1e-6 the nearest shape gets all.
        distance: As of `anchors.assign`.
    """
    anchor = (matched >= 0).nonzero()[:, 0]
    shape, box = shape_of_anchor[anchor], matched[anchor]
    num_positives = log_wh.new_zeros(len(box_log_wh), len(log_wh))  # (M, A)
    num_positives.index_put_((box, shape), log_wh.new_ones(()), accumulate=True)
    is_positive = num_positives > 0
    same_level = (level_of_shape[:, None] == level_of_shape).to(log_wh.dtype)  # (A, A)
    in_level = num_positives @ same_level > 0
    allowed = torch.where(torch.as_tensor(temperature >= HARD_TEMPERATURE, device=log_wh.device), in_level, is_positive)
    nearness = similarity(box_log_wh, log_wh, distance).masked_fill(~allowed, -torch.inf)
    delta = soft_or_hard(nearness, temperature).masked_fill(~is_positive.any(1, keepdim=True), 0.0)
    return MatchedShapes(anchor, shape, delta[box, shape] / num_positives[box, shape], delta)
