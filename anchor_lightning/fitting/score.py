"""How well anchor shapes fit boxes, in the measures that the tools around use; pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from anchor_lightning.anchors.iou import CHUNK, best_iou
from anchor_lightning.errors import UserError

RATIO_THRESHOLD: Final = 4.0  # YOLOv5's `anchor_t`
SIZE_NAMES: Final = ("small", "medium", "large")


@dataclass(frozen=True)
class AnchorScore:
    """The score of one set of shapes on one set of boxes; shares and means are in [0, 1], NaN without boxes.

    Attributes:
        mean_best_iou: Mean over the boxes of the IoU with their best shape.
        recall_iou: Share of the boxes whose best IoU reaches `iou_threshold`.
        recall_ratio: Share of the boxes with a shape whose sides are within `ratio_threshold` times the box's.
        usage: (A,) share of the boxes whose best shape by IoU each is; the first on a tie.
        best_iou: (N,) IoU of every box with its best shape.
        best_anchor: (N,) int64 index of that shape.
        within_ratio: (N,) bool, whether the box is one that `recall_ratio` counts.
    """

    mean_best_iou: float
    recall_iou: float
    recall_ratio: float
    usage: Tensor
    best_iou: Tensor
    best_anchor: Tensor
    within_ratio: Tensor


def score_shapes(
    box_wh: Tensor, wh: Tensor, iou_threshold: float = 0.5, ratio_threshold: float = RATIO_THRESHOLD
) -> AnchorScore:
    """Scores shapes on boxes.

    Args:
        box_wh: (N, 2) widths and heights > 0 in pixels of the network input.
        wh: (A, 2) shapes in the same pixels.
        iou_threshold: In (0, 1]; a box counts as recalled from this IoU on.
        ratio_threshold: > 1; YOLOv5 assigns a shape to a box when max(w/a_w, a_w/w, h/a_h, a_h/h) is below it.

    Raises:
        UserError: A threshold is out of its range.
    """
    if not 0 < iou_threshold <= 1:
        raise UserError(f"{iou_threshold:g}; give a number above 0, at most 1", argument="iou_threshold")
    if not ratio_threshold > 1:
        raise UserError(f"{ratio_threshold:g}; give a factor above 1, YOLOv5's is 4", argument="ratio_threshold")
    iou, best_anchor = best_iou(box_wh, wh)
    quotients = (part.double()[:, None] / wh.double() for part in box_wh.split(CHUNK))  # (n, A, 2) each
    ratio = torch.cat([quotient.maximum(1 / quotient).amax(2).amin(1) for quotient in quotients])
    return AnchorScore(
        mean_best_iou=float(iou.mean()),
        recall_iou=float((iou >= iou_threshold).double().mean()),
        recall_ratio=float((ratio < ratio_threshold).double().mean()),
        usage=best_anchor.bincount(minlength=len(wh)).double() / max(1, len(box_wh)),
        best_iou=iou,
        best_anchor=best_anchor,
        within_ratio=ratio < ratio_threshold,
    )


def size_groups(box_wh: Tensor) -> Tensor:
    """(N,) 0 for small, 1 for medium, 2 for large boxes: areas (of the input) below 32², below 96², and the others."""
    limits = torch.tensor([32.0**2, 96.0**2], dtype=torch.float64)
    return torch.bucketize(box_wh.double().prod(1), limits, right=True)


def group_means(values: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """(G,) float64 mean of the values (N,) in every group, NaN for one without, and (G,) their counts."""
    count = groups.bincount(minlength=num_groups)
    total = torch.zeros(num_groups, dtype=torch.float64).index_add_(0, groups, values.double())
    return total / count, count
