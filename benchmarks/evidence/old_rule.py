"""The rule by which torchvision's detectors learned shapes until November 2026; the evidence compares with it, alone.

Every positive anchor moved its shape with the whole box loss, Δx and Δy included, which torchvision measures in widths
and heights of the anchor; the clustering term was the mean over the positives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from anchor_lightning.detectors.torchvision.generators import LearnableAnchors


def use_old_rule(model: nn.Module) -> None:
    """Has the learnable anchors of a torchvision detector learn by the old rule, in place.

    The gradient is the old one for box losses of the difference between output and target, those of all detectors here.
    """
    generator: Any = next(module for module in model.modules() if isinstance(module, LearnableAnchors))
    generator.register_forward_hook(lambda module, inputs, anchors: setattr(module, "placed", anchors))
    generator.learn = MethodType(learn, generator)


def learn(
    generator: Any,
    regression: Tensor,
    matched: Sequence[Tensor],
    boxes_xyxy: Sequence[Tensor],
    coder_weights: Sequence[float],
    by_image: bool,
    max_positives: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """In the place of `LearnableAnchors.learn`: the target's gradient, -t_x and -k_w, with the other sign."""
    shapes, scale = generator.shapes, torch.tensor(coder_weights, device=regression.device)
    log_wh = generator.spread(shapes.log_wh)  # (N, 2)
    zeros = (log_wh - log_wh.detach()).repeat(1, 2)
    moved, log_ratios = list[Tensor](), list[Tensor]()
    for output, of_image, boxes, anchors in zip(regression, matched, boxes_xyxy, generator.placed, strict=True):
        anchor = (of_image >= 0).nonzero()[:, 0]
        box, placed = boxes[of_image[anchor]], anchors[anchor]
        t_xy = (box[:, :2] + box[:, 2:] - placed[:, :2] - placed[:, 2:]) / 2 / (placed[:, 2:] - placed[:, :2])
        factor = torch.cat([t_xy, torch.ones_like(t_xy)], 1) * scale  # (P, 4)
        moved.append(output.index_add(0, anchor, (factor * zeros[anchor]).to(output.dtype)))
        log_ratios.append((box[:, 2:] - box[:, :2]).log() - log_wh[anchor])
    log_ratio = torch.cat(log_ratios)
    clustering = shapes.clustering_weight * log_ratio.square().sum() / (2 * max(1, len(log_ratio)))
    return torch.stack(moved), clustering
