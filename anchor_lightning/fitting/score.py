"""How well anchor shapes fit boxes, in the measures that the tools around use; pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from anchor_lightning.anchors.iou import CHUNK, best_iou
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.ascent import ascent_shapes
from anchor_lightning.fitting.objectives import RATIO_THRESHOLD, side_ratio

GOOD_RECALL: Final = 0.98  # by ratio 4: from here on YOLOv5's check of anchors calls them a good fit
GOOD_GAIN: Final = 0.02  # Mean best IoU that fitted shapes may be ahead of good ones
SIZE_NAMES: Final = ("small", "medium", "large")


@dataclass(frozen=True)
class AnchorScore:
    """The score of one set of shapes on one set of boxes; shares and means are in [0, 1], NaN without boxes.

    Attributes:
        mean_best_iou: Mean over the boxes of the IoU with their best shape.
        recall_iou: Share of the boxes whose best IoU reaches `iou_threshold`.
        recall_ratio: Share of the boxes with a shape whose sides are within `ratio_threshold` times the box's.
        usage: (A,) share of the boxes whose best shape by IoU each is; the first on a tie.
        ratio_fitness: YOLOv5's fitness, the mean of `ratio_fit`.
        best_iou: (N,) IoU of every box with its best shape.
        best_anchor: (N,) int64 index of that shape.
        within_ratio: (N,) bool, whether the box is one that `recall_ratio` counts.
        ratio_fit: (N,) `side_ratio` of every box with its best shape by that, 0 where not `within_ratio`.
    """

    mean_best_iou: float
    recall_iou: float
    recall_ratio: float
    ratio_fitness: float
    usage: Tensor
    best_iou: Tensor
    best_anchor: Tensor
    within_ratio: Tensor
    ratio_fit: Tensor


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
    parts = box_wh.double().split(CHUNK)
    ratio = torch.cat([side_ratio(part[:, None], wh.double()).amax(1) for part in parts])  # (N,)
    within = ratio > 1 / ratio_threshold
    fit = ratio * within
    return AnchorScore(
        mean_best_iou=float(iou.mean()),
        recall_iou=float((iou >= iou_threshold).double().mean()),
        recall_ratio=float(within.double().mean()),
        ratio_fitness=float(fit.mean()),
        usage=best_anchor.bincount(minlength=len(wh)).double() / max(1, len(box_wh)),
        best_iou=iou,
        best_anchor=best_anchor,
        within_ratio=within,
        ratio_fit=fit,
    )


@dataclass(frozen=True)
class Verdict:
    """Whether shapes are good for boxes, and what is wrong with them if not.

    Attributes:
        covers: Whether the best possible recall at a ratio of 4 is 0.98 or more, as YOLOv5's check asks.
        reachable: Mean best IoU of as many shapes fitted to the boxes; NaN where the boxes have fewer distinct shapes.
        is_fitted: Whether the shapes come within 0.02 of that.
    """

    covers: bool
    reachable: float
    is_fitted: bool

    @property
    def is_good(self) -> bool:
        """Whether there is nothing to do."""
        return self.covers and self.is_fitted


def judge(box_wh: Tensor, wh: Tensor) -> Verdict:
    """The verdict on shapes (A, 2) for boxes (N, 2), both in pixels of the network input; it fits shapes itself."""
    score = score_shapes(box_wh, wh)
    try:
        reachable = best_iou(box_wh, ascent_shapes(box_wh, len(wh)))[0].mean().item()
    except UserError:  # fewer distinct boxes than shapes
        reachable = float("nan")
    return Verdict(score.recall_ratio >= GOOD_RECALL, reachable, not reachable - score.mean_best_iou > GOOD_GAIN)


def size_groups(box_wh: Tensor) -> Tensor:
    """(N,) 0 for small, 1 for medium, 2 for large boxes: areas (of the input) below 32², below 96², and the others."""
    limits = torch.tensor([32.0**2, 96.0**2], dtype=torch.float64)
    return torch.bucketize(box_wh.double().prod(1), limits, right=True)


def group_means(values: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """(G,) float64 mean of the values (N,) in every group, NaN for one without, and (G,) their counts."""
    count = groups.bincount(minlength=num_groups)
    total = torch.zeros(num_groups, dtype=torch.float64).index_add_(0, groups, values.double())
    return total / count, count
