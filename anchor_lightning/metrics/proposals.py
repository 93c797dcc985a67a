"""Average recall of a region proposal network's boxes, as COCO defines it for proposals.

Shape letters: I images, T IoU thresholds (0.5 to 0.95), L limits on the proposals of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anchor_lightning.errors import UserError
from anchor_lightning.metrics.base import (
    ImageMetric,
    Items,
    as_detections,
    as_ground_truth,
    first_copies,
    read_images,
    rows,
)
from anchor_lightning.metrics.coco import AT_50, evaluate
from anchor_lightning.structures import Detections, GroundTruth

_NUM_THRESHOLDS = 10


class ProposalRecall(ImageMetric):
    """The share of boxes that the best proposals of each image find, as a `torchmetrics.Metric`.

    What pycocotools' `COCOeval` gives as recall with `useCats = 0` and `maxDets = top`, boxes of all sizes: a proposal,
    best score first, takes the ground truth of any class that it overlaps most among those still free, at IoU 0.5,
    0.55, ... 0.95. Equal scores keep their order. Crowds (`iscrowd` or `difficult`) need not be found.

    The same on any number of ranks. Proposals are matched in `update` (about 4 ms for 1,000 of them) and not kept, so
    that a million of them take no memory and nothing but counts travels between ranks.

    Note:
        The paper gives the recall at 50 and at 100 proposals beside its Table 7, and says neither at which IoU nor how
        it matched; `ar_50` and `ar_100` are our reading. Detectron and its successors match by falling overlap, not
        by score, and so find a little more or less.

    Args:
        top: The L limits: so many proposals of an image count, best score first.
        kwargs: See `torchmetrics.Metric`.

    Raises:
        UserError: No limit, or one twice or below 1.
    """

    def __init__(self, top: Sequence[int] = (50, 100, 300, 1000), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not top or len(set(top)) != len(top) or min(top) < 1:
            raise UserError(f"must hold limits from 1, at least one and each once, got {list(top)}", "top")
        self.top = sorted(top)
        self.add_state("images", [], dist_reduce_fx="cat")  # (I, 2 + T L): id, boxes to find, boxes found

    def update(self, preds: Items, target: Items) -> None:
        """Matches the proposals of a batch; nothing of a batch that is invalid.

        Args:
            preds: Of each image a dict of `boxes` (P, 4) in pixels, xyxy, and `scores` (P,), which may be logits.
            target: Of each image a dict as for `VOCMeanAveragePrecision`.

        Raises:
            UserError: A predicted box or score is not finite.
            ValueError: `preds` and `target` differ in length, tensors do not fit together, or the ground truth is not
                finite.
        """
        images = []
        for image_id, found, boxes in read_images(preds, target, num_classes=None):
            truth = as_ground_truth(1, boxes)
            counts = _count_found(truth, as_detections(found), self.top)
            images.append([image_id, (~truth.ignore).sum(), *counts.flat])
        self.images.append(torch.tensor(images, dtype=torch.float64).reshape(len(images), self._width))

    def compute(self) -> dict[str, Tensor]:
        """The recalls over the images of all ranks.

        Returns:
            For each K of `top`, rising: `ar_K`, the mean over IoU 0.5 to 0.95, and `recall_iou50_K`, at IoU
            0.5 alone. Fractions in [0, 1]; NaN where there is no ground truth to measure against.
        """
        images = rows(self.images, self._width)
        _, num_boxes, *found = images[first_copies(images[:, 0])].sum(0).tolist()
        recall = np.reshape(found, (_NUM_THRESHOLDS, -1)) / (num_boxes or np.nan)
        average = {f"ar_{limit}": value for limit, value in zip(self.top, recall.mean(0), strict=True)}
        at_50 = {f"recall_iou50_{limit}": value for limit, value in zip(self.top, recall[AT_50], strict=True)}
        return self.scalars(average | at_50)

    @property
    def _width(self) -> int:
        return 2 + _NUM_THRESHOLDS * len(self.top)


def _count_found(ground_truth: GroundTruth, proposals: Detections, top: Sequence[int]) -> np.ndarray:
    """How many ground truth boxes of an image the best proposals find: (T, L) int64."""
    # A proposal takes a crowd only where no other ground truth is left to it: without crowds the recall is the same.
    # With `useCats` 0 COCO goes through the ground truth boxes by class, which decides where a proposal overlaps two of
    # them alike.
    order = np.argsort(ground_truth.labels, kind="stable")
    boxes_xyxy = ground_truth.boxes_xyxy[order[~ground_truth.ignore[order]]]
    zeros = np.zeros(len(boxes_xyxy))
    if not len(zeros) or not len(proposals.scores):
        return np.zeros((_NUM_THRESHOLDS, len(top)), dtype=np.int64)
    # All of one class, and of an area that lies among those of all sizes.
    of_one_class = GroundTruth(1, boxes_xyxy, zeros.astype(np.int64), zeros.astype(bool), zeros)
    _, recall = evaluate([of_one_class], {1: proposals}, 1, top, by_area=False)  # (T, 1, 1, L)
    counts: np.ndarray = np.rint(recall[:, 0, 0] * len(zeros)).astype(np.int64)
    return counts
