"""What shapes are fitted for: a measure of how well a shape fits a box, and what that is worth."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

from anchor_lightning.anchors.iou import CHUNK, shape_iou

Objective = Literal["iou", "ratio"]
"""`iou`: the mean best IoU. `ratio`: YOLOv5's fitness, the mean of the best `side_ratio` where that is above 1/4."""
RATIO_THRESHOLD: Final = 4.0  # YOLOv5's `anchor_t`


def side_ratio(wh: Tensor, other_wh: Tensor) -> Tensor:
    """(...) min(w/w', w'/w, h/h', h'/h) in (0, 1] of broadcast sides (..., 2) > 0."""
    quotient = wh / other_wh
    return quotient.minimum(1 / quotient).amin(-1)


def fit_of(wh: Tensor, other_wh: Tensor, objective: Objective) -> Tensor:
    """(...) how well broadcast sides (..., 2) > 0 fit each other, in (0, 1]."""
    return shape_iou(wh, other_wh) if objective == "iou" else side_ratio(wh, other_wh)


def worth(fit: Tensor, objective: Objective) -> Tensor:
    """(...) what the fit of a box with its best shape counts: itself, by ratio 0 for boxes out of reach."""
    return fit if objective == "iou" else torch.where(fit > 1 / RATIO_THRESHOLD, fit, 0)


def best_fit(box_wh: Tensor, wh: Tensor, objective: Objective) -> float:
    """The objective of shapes (A, 2) on boxes (N, 2), in (0, 1]; NaN without boxes."""
    parts = [fit_of(part.double()[:, None], wh.double(), objective).amax(1) for part in box_wh.split(CHUNK)]
    return float(worth(torch.cat(parts), objective).mean())
