"""Stateless box geometry that torchvision.ops does not have."""

from __future__ import annotations

from torch import Tensor


def shape_iou(wh: Tensor, other_wh: Tensor) -> Tensor:
    """IoU of boxes that share their centre, so that only the shapes count (the distance of YOLOv2's k-means).

    Args:
        wh: (..., 2) widths and heights > 0.
        other_wh: (..., 2), broadcast against `wh`.

    Returns:
        (...) IoU in (0, 1].
    """
    w, h = wh.unbind(-1)
    other_w, other_h = other_wh.unbind(-1)
    intersection = w.minimum(other_w) * h.minimum(other_h)
    return intersection / (w * h + other_w * other_h - intersection)
