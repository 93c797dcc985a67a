"""A rule for the shapes of torchvision's detectors that the evidence compares with: without the offsets.

A shape moves to the boxes that it answers for, by its own distance to them, as if the network had no offsets: the
clustering term of Eq. 11-12 with a λ that does not fall to 0 (`squared`), or the absolute distance, to the median.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn

from anchor_lightning.anchors.losses import clustering_loss
from anchor_lightning.detectors.torchvision.assignment import assign_matched
from anchor_lightning.detectors.torchvision.generators import LearnableAnchors


def use_own_rule(model: nn.Module, squared: bool) -> None:
    """Has the learnable anchors of a torchvision detector learn by this rule, in place."""
    generator: Any = next(module for module in model.modules() if isinstance(module, LearnableAnchors))
    generator.learn = MethodType(partial(learn, squared), generator)


def learn(
    squared: bool,
    generator: Any,
    regression: Tensor,
    matched: Sequence[Tensor],
    boxes_xyxy: Sequence[Tensor],
    coder_weights: Sequence[float],
    by_image: bool,
    max_positives: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """In the place of `LearnableAnchors.learn`: the output as it is, and what moves the shapes."""
    shapes, log_wh = generator.shapes, generator.shapes.moving()
    shape_of_anchor = generator.spread(shapes.level.new_tensor(range(len(log_wh)))[:, None])[:, 0]
    sizes = [(boxes[:, 2:] - boxes[:, :2]).to(log_wh.dtype).log() for boxes in boxes_xyxy]
    deltas = [
        assign_matched(of_image, shape_of_anchor, shapes.level, size, log_wh).delta
        for of_image, size in zip(matched, sizes, strict=True)
    ]
    num_boxes = sum(float(delta.sum()) for delta in deltas) or 1.0
    terms = log_wh.sum() * 0
    for size, delta in zip(sizes, deltas, strict=True):
        clustering = clustering_loss(log_wh, size, delta, num_boxes)
        distance = (delta[..., None] * (log_wh - size[:, None]).abs()).sum() / num_boxes
        terms = terms + shapes.clustering_weight * clustering + (clustering if squared else distance)
    return regression, terms
