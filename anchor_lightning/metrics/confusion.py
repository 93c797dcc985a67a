"""Which class the detector calls the boxes of each class, what it misses, and what it finds where nothing is.

Shape letters: I images, N detections of an image, G ground truth boxes of an image, P pairs of both, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

from anchor_lightning.errors import UserError
from anchor_lightning.metrics.base import ImageMetric, Items, first_copies, read_images, rows


class DetectionConfusionMatrix(ImageMetric):
    """Confusion matrix of a detector as a `torchmetrics.Metric`, the same on any number of ranks.

    Row: class of the ground truth; column: class of the detection; the last of each is the background: detections
    without a box, and boxes without a detection. Detections that score less than `score_threshold` do not count. The
    others, best score first, take the ground truth of their class that they overlap most among those still free, as in
    COCO; then those left over take what is free of other classes in the same way. A box that need not be found
    (`iscrowd` or `difficult`) is in no row, and a detection left over counts as nothing of whose area the share
    `iou_threshold` lies within one of its class.

    Args:
        num_classes: C > 0.
        score_threshold: In [0, 1].
        iou_threshold: In (0, 1], the overlap from which on a detection has found a box.
        kwargs: See `torchmetrics.Metric`.

    Raises:
        UserError: A threshold is out of its range.
    """

    higher_is_better: bool | None = None

    pairs: list[Tensor]

    def __init__(
        self, num_classes: int, score_threshold: float = 0.3, iou_threshold: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= score_threshold <= 1:
            raise UserError(f"must lie in [0, 1], got {score_threshold}", "score_threshold")
        if not 0 < iou_threshold <= 1:
            raise UserError(f"must lie in (0, 1], got {iou_threshold}", "iou_threshold")
        self.num_classes = num_classes
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.add_state("images", [], dist_reduce_fx="cat")  # (I, 2): id, P
        self.add_state("pairs", [], dist_reduce_fx="cat")  # (sum of P, 2): row and column of the matrix

    def update(self, preds: Items, target: Items) -> None:
        """Matches the detections of a batch; arguments and errors are those of `VOCMeanAveragePrecision`."""
        images = list(read_images(preds, target, self.num_classes))
        pairs = [self._pairs(found[found[:, 4] >= self.score_threshold], boxes) for _, found, boxes in images]
        counts = [[image[0], len(here)] for image, here in zip(images, pairs, strict=True)]
        self.images.append(torch.tensor(counts, dtype=torch.float64).reshape(-1, 2))
        self.pairs.append(rows(pairs, 2))

    def compute(self) -> Tensor:
        """(C + 1, C + 1) int64 numbers of boxes over the images of all ranks."""
        images, size = rows(self.images, 2), self.num_classes + 1
        of_images = rows(self.pairs, 2).long().split(images[:, 1].long().tolist())
        pairs = torch.cat([torch.zeros(0, 2, dtype=torch.int64), *(of_images[i] for i in first_copies(images[:, 0]))])
        matrix = torch.bincount(pairs[:, 0] * size + pairs[:, 1], minlength=size * size)
        return matrix.reshape(size, size).to(self.device)

    def _pairs(self, found: Tensor, boxes: Tensor) -> Tensor:
        """(P, 2) row and column of each detection and each missed box of an image."""
        found = found[found[:, 4].argsort(descending=True, stable=True)]
        counted, ignored = boxes[boxes[:, 5] == 0], boxes[boxes[:, 5] != 0]
        iou = box_iou(found[:, :4], counted[:, :4]).nan_to_num().numpy()  # (N, G)
        is_same = (found[:, None, 5] == counted[:, 4]).numpy()
        matches = self._match(iou * is_same)
        inside = _share_inside(found[:, :4], ignored[:, :4]) * (found[:, None, 5] == ignored[:, 4]).numpy()
        is_left = (matches < 0) & ~(inside >= self.iou_threshold).any(axis=1)
        is_free = ~np.isin(np.arange(len(counted)), matches)
        matches = np.maximum(matches, self._match(iou * is_left[:, None] * is_free))
        missed = counted[~np.isin(np.arange(len(counted)), matches), 4]
        background = torch.full((1,), float(self.num_classes), dtype=torch.float64)
        truth = torch.cat([counted[:, 4], background])[torch.from_numpy(matches)]  # -1, for none, is the last
        kept = torch.from_numpy(is_left | (matches >= 0))
        pairs = torch.column_stack([truth, found[:, 5]])[kept]
        return torch.cat([pairs, torch.column_stack([missed, background.expand(len(missed))])])

    def _match(self, iou: np.ndarray) -> np.ndarray:
        """(N,) which of the G boxes each detection takes, one after the other; -1 for none."""
        matches, free = np.full(len(iou), -1), np.ones(iou.shape[1], dtype=bool)
        for index, row in enumerate(iou):
            if (row * free).max(initial=0) >= self.iou_threshold:
                matches[index] = best = (row * free).argmax()
                free[best] = False
        return matches


def _share_inside(found: Tensor, boxes: Tensor) -> np.ndarray:
    """(N, G) share of each detection's own area that lies within each box, COCO's overlap with a crowd."""
    top_left = torch.maximum(found[:, None, :2], boxes[:, :2])
    bottom_right = torch.minimum(found[:, None, 2:], boxes[:, 2:])
    intersection = (bottom_right - top_left).clamp_min(0).prod(dim=2)
    return np.asarray((intersection / box_area(found)[:, None]).nan_to_num())
