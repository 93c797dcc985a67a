"""IoU k-means, with which YOLOv2 chooses its priors."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from anchor_lightning.anchors.iou import best_iou, mean_best_iou
from anchor_lightning.errors import UserError
from anchor_lightning.messages import info

RESTART_SAMPLE: Final = 8192
SAMPLE: Final = 65_536  # a million boxes take a minute and give the same mean best IoU to the third digit


def kmeans_shapes(box_wh: Tensor, num: int, seed: int = 0) -> Tensor:
    """(A, 2) float32 k-means centres of box shapes with 1 - IoU as the distance, smallest area first.

    Of more than 65,536 boxes a sample of so many, which is said.

    Args:
        box_wh: (N, 2) widths and heights > 0.
        num: Number of centres A.
        seed: Of the starts and of the samples; equal arguments give equal centres.

    Raises:
        UserError: As `check_distinct`.
    """
    check_distinct(box_wh, num)
    boxes = box_wh.double()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(boxes), generator=generator)
    sample = boxes[order[:RESTART_SAMPLE]]
    if len(boxes) > SAMPLE:
        info(f"k-means on {SAMPLE:,} of {len(boxes):,} boxes, a random sample that the seed {seed} gives.")
        boxes = boxes[order[:SAMPLE]]
    starts = [_lloyd(sample, _plus_plus(sample, num, generator)) for _ in range(8)]
    centres = _lloyd(boxes, max(starts, key=lambda centres: mean_best_iou(sample, centres)))
    return centres[centres.prod(1).argsort()].float()


def check_distinct(box_wh: Tensor, num: int, levels: int = 1, is_fixed: bool = False) -> None:
    """Raises a `UserError` if `num` is less than 1, or there are fewer distinct boxes than `num`, or none.

    Args:
        box_wh: (N, 2) widths and heights.
        num: Number of shapes.
        levels: Levels of the head, among which the number that the error advises can be divided.
        is_fixed: Whether `num` is the detector's own: then more boxes or another start are advised.
    """
    if num < 1:
        raise UserError(f"{num} shapes; give 1 or more", argument="num")
    if len(box_wh) == 0:
        raise UserError("the training split has no boxes to fit shapes to; give another data set or split")
    # A `unique` over all boxes of a large set costs more than the clustering; a sample mostly settles the question.
    if len(box_wh[:RESTART_SAMPLE].unique(dim=0)) < num and (distinct := len(box_wh.unique(dim=0))) < num:
        few = f"{num} shapes, but the training boxes have only {distinct} distinct shapes at this image size"
        if is_fixed:
            raise UserError(f"{few}; give more data, or start from model or uniform", argument="init")
        most = distinct // levels * levels
        todo = f"ask for at most {most}" if most else f"too few for {levels} levels; give more data or a list of shapes"
        raise UserError(f"{few}; {todo}", argument="num")


def _plus_plus(boxes: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeding: each further centre is a box drawn with probability proportional to (1 - best IoU)²."""
    centres = boxes[torch.randint(len(boxes), (1,), generator=generator)]
    while len(centres) < num:
        distance = (1 - best_iou(boxes, centres)[0]).clamp_min(0).square()
        if not distance.sum() > 0:  # fewer distinct shapes in the sample than centres
            distance = torch.ones_like(distance)
        centres = torch.cat([centres, boxes[torch.multinomial(distance, 1, generator=generator)]])
    return centres


def _lloyd(boxes: Tensor, centres: Tensor) -> Tensor:
    """The best centres met (not the last: a mean does not maximise the IoU) when members and means alternate."""
    best, best_score, previous = centres, -1.0, None
    for _ in range(300):
        iou, nearest = best_iou(boxes, centres)
        if (score := float(iou.mean())) > best_score:
            best, best_score = centres, score
        if previous is not None and torch.equal(nearest, previous):
            break
        previous = nearest
        count = nearest.bincount(minlength=len(centres))
        total = torch.zeros_like(centres).index_add_(0, nearest, boxes)
        # A centre that lost all its members starts again at the box that is served worst.
        centres = torch.where(count[:, None] > 0, total / count[:, None].clamp_min(1), boxes[iou.argmin()])
    return best
