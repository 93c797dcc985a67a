"""IoU of box shapes, boxes that share their centre."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

CHUNK: Final = 65_536  # Boxes compared at a time: a million at once would need gigabytes


def shape_iou(wh: Tensor, other_wh: Tensor) -> Tensor:
    """(...) IoU in (0, 1] of boxes that share their centre, of broadcast sides (..., 2) > 0."""
    w, h = wh.unbind(-1)
    other_w, other_h = other_wh.unbind(-1)
    intersection = w.minimum(other_w) * h.minimum(other_h)
    return intersection / (w * h + other_w * other_h - intersection)


def best_iou(box_wh: Tensor, wh: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) float64 IoU of boxes (N, 2) with their best of shapes (A, 2), and its index, the lowest on a tie."""
    parts = [shape_iou(part.double()[:, None], wh.double()).max(1) for part in box_wh.split(CHUNK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def mean_best_iou(box_wh: Tensor, wh: Tensor) -> float:
    """Mean over boxes (N, 2) of the IoU with their best shape of (A, 2), in (0, 1]; NaN without boxes."""
    return float(best_iou(box_wh, wh)[0].mean())
