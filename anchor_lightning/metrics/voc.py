"""Average precision as the Pascal VOC development kit computes it (VOCevaldet.m, VOCap.m).

Shape letters: G ground truth boxes and N detections of an image, D detections of the set, P of a class that count, C
classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

from anchor_lightning.errors import UserError
from anchor_lightning.metrics.base import MeanAveragePrecision, mean_of_defined
from anchor_lightning.structures import Detections, GroundTruth

# MATLAB's 0:0.1:1 counts up from 0 to the middle and down from 1 above it. The fourth level is the double after 0.3, so
# a recall of exactly 3/10 misses it, in the development kit as here.
_STEPS = np.arange(6) * 0.1
_RECALL_LEVELS = np.concatenate([_STEPS[:5], [0.5], 1 - _STEPS[4::-1]])


class VOCResult(NamedTuple):
    """Average precision of each class under both VOC protocols.

    Args:
        ap_11_point: (C,) float64 in [0, 1], the mean of the precision at eleven recall levels (2007); NaN for a class
            without a ground truth that is not difficult.
        ap_area: (C,) float64 in [0, 1], the area under the monotone precision-recall curve (2010 and later); NaN alike.
    """

    ap_11_point: np.ndarray
    ap_area: np.ndarray


class VOCMeanAveragePrecision(MeanAveragePrecision):
    """VOC's mean average precision as a `torchmetrics.Metric`, the same on any number of ranks.

    `map_voc07` with `ap_voc07/CLASS` (2007: mean of the precision at 11 levels of recall) and `map_voc` with
    `ap_voc/CLASS` (2010 and later: area under the monotone precision-recall curve). The detections of a class are taken
    over all images by falling score. Each goes to the ground truth of its class and image that it overlaps most, taken
    or not: a second one on the same ground truth is wrong, as is one that overlaps by less than `iou_threshold`.
    Difficult ground truth boxes (`difficult` or `iscrowd`) need not be found, and a detection that goes to one counts
    as nothing. A class without a ground truth that counts is NaN and left out of the mean; one with ground truth and
    without detections is 0.

    Example:
        >>> metric = VOCMeanAveragePrecision(["cat", "dog"])
        >>> preds = [{"boxes": [[10, 10, 50, 50]], "scores": [0.9], "labels": [0]}]
        >>> target = [{"boxes": [[10, 10, 50, 50]], "labels": [0], "image_id": 1}]
        >>> metric.update(preds, target)
        >>> metric.compute()
        {'map_voc07': tensor(1.), 'map_voc': tensor(1.)}

    Args:
        classes: Names of the C classes, position is the label; or C, the names are then the labels.
        per_class: Whether to add the average precision of each class.
        iou_threshold: In (0, 1], the overlap from which on a detection is right.
        kwargs: See `torchmetrics.Metric`.

    Raises:
        UserError: No class, or one twice, or `iou_threshold` is out of range.
    """

    def __init__(
        self, classes: Sequence[str] | int, per_class: bool = False, iou_threshold: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(classes, per_class, **kwargs)
        if not 0 < iou_threshold <= 1:
            raise UserError(f"must lie in (0, 1], got {iou_threshold}", "iou_threshold")
        self.iou_threshold = iou_threshold

    def average_precision(
        self, ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections]
    ) -> dict[str, float]:
        """See the class."""
        result = voc_average_precision(ground_truths, detections, len(self.class_names), self.iou_threshold)
        means = {"map_voc07": mean_of_defined(result.ap_11_point), "map_voc": mean_of_defined(result.ap_area)}
        return means | self.named("ap_voc07", result.ap_11_point) | self.named("ap_voc", result.ap_area)


def voc_average_precision(
    ground_truths: Sequence[GroundTruth],
    detections: Mapping[int, Detections],
    num_classes: int,
    iou_threshold: float = 0.5,
) -> VOCResult:
    """Average precision per class, by the development kit's algorithm, see `VOCMeanAveragePrecision`.

    Args:
        ground_truths: The images to evaluate, valid; `ignore` is VOC's `difficult`.
        detections: By image id, boxes in pixels of the stored image (continuous, 0-based, as the ground truth boxes);
            an image without an entry has none. Equal scores, whose order the kit leaves to its results file, keep the
            order of `ground_truths`, then the order within an image.
        num_classes: C > 0.
        iou_threshold: In (0, 1].

    Returns:
        The average precisions. Where everything found of a class is difficult, the kit divides 0 by 0 in the 11-point
        protocol; here it is 0.
    """
    ap_11_point, ap_area = np.full((2, num_classes), np.nan)
    scores, labels, overlaps, takes = _match(ground_truths, detections)
    difficult = np.concatenate([np.zeros(0, bool), *(ground_truth.ignore for ground_truth in ground_truths)])
    target_labels = np.concatenate([np.zeros(0, np.int64), *(ground_truth.labels for ground_truth in ground_truths)])
    num_positives = np.bincount(target_labels[~difficult], minlength=num_classes)
    order = np.argsort(-scores, kind="stable")
    for label in np.flatnonzero(num_positives):
        of_class = order[labels[order] == label]
        hit = np.flatnonzero(overlaps[of_class] >= iou_threshold)
        taken = takes[of_class[hit]]
        right, counts = np.zeros(len(of_class), bool), np.ones(len(of_class), bool)
        right[hit[np.unique(taken, return_index=True)[1]]] = True  # only the first to reach a ground truth takes it
        counts[hit] = ~difficult[taken]
        ap_11_point[label], ap_area[label] = _average_precisions(right[counts], int(num_positives[label]))
    return VOCResult(ap_11_point, ap_area)


def _average_precisions(true_positive: np.ndarray, num_positives: int) -> tuple[float, float]:
    """11-point and area average precision from (P,) bool in falling order of score."""
    found = np.cumsum(true_positive)
    recall = found / num_positives
    precision = found / np.arange(1, len(found) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    level = np.searchsorted(recall, _RECALL_LEVELS)  # first point whose recall reaches the level; P if none does
    eleven = np.append(best_from_here, 0.0)[level].mean()
    area = (np.diff(recall, prepend=0.0) * best_from_here).sum()
    return float(eleven), float(area)


def _match(ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections]) -> tuple[np.ndarray, ...]:
    """(D,) scores, labels, best overlaps with a ground truth of the class, and whose, counted over the set."""
    none = np.zeros(0, np.int64)
    columns, num_boxes_before = [(np.zeros(0), none, np.zeros(0), none)], 0
    for ground_truth in ground_truths:
        found = detections.get(ground_truth.image_id)
        if found is not None:
            scores, labels = found.scores.detach().double().cpu().numpy(), found.labels.cpu().numpy()
            # The kit's inclusive pixels, 1-based, are x1 + 1 to x2: as wide as x2 - x1 here.
            boxes_xyxy = found.boxes_xyxy.detach().double().cpu()
            iou = box_iou(boxes_xyxy, torch.as_tensor(ground_truth.boxes_xyxy).double()).nan_to_num().numpy()
            of_class = np.where(labels[:, None] == ground_truth.labels, iou, 0.0)  # (N, G)
            of_class = np.pad(of_class, ((0, 0), (0, 1)))  # one that nothing overlaps, where there is no other
            best = of_class.argmax(axis=1)  # the first on a tie
            columns.append((scores, labels, of_class.max(axis=1), best + num_boxes_before))
        num_boxes_before += len(ground_truth.labels)
    return tuple(np.concatenate(parts) for parts in zip(*columns, strict=True))
