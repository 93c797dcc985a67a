"""Average precision as the Pascal VOC development kit computes it (VOCevaldet.m, VOCap.m).

Shape letters: G ground truth boxes of an image, N detections of an image, D detections of a class, P of them that
count, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anchor_lightning.errors import UserError
from anchor_lightning.metrics.base import MeanAveragePrecision, mean_of_defined
from anchor_lightning.structures import Detections, GroundTruth

# MATLAB's 0:0.1:1 counts up from 0 to the middle and down from 1 above it. The fourth level is the double after 0.3, so
# a recall of exactly 3/10 misses it, in the development kit as here.
_STEPS = np.arange(6) * 0.1
_RECALL_LEVELS = np.concatenate([_STEPS[:5], [0.5], 1 - _STEPS[4::-1]])
_TO_INCLUSIVE = np.array([1.0, 1.0, 0.0, 0.0])  # from continuous 0-based corners to the first and last pixel, 1-based


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
    `ap_voc/CLASS` (2010 and later: area under the monotone precision-recall curve). Overlaps count the pixels of
    1-based corners inclusively (width x2 - x1 + 1). A detection goes to the ground truth that it overlaps most, taken
    or not: a second one on the same ground truth is wrong. All detections count. Difficult ground truth boxes
    (`difficult` or `iscrowd`) need not be found, and a detection that goes to one counts as nothing. A class without a
    ground truth that counts is NaN and left out of the mean; one with ground truth and without detections is 0.

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


@dataclass(frozen=True)
class _Matches:
    """Every detection beside the ground truth of its class that it overlaps most, in the order of the images.

    Args:
        scores: (D,) float64.
        labels: (D,) int64.
        overlap: (D,) float64, 0 where no ground truth of the class is touched.
        ground_truth: (D,) int64, position of that ground truth among all ground truth boxes of the set; meaningless
            where overlap is 0.
    """

    scores: np.ndarray
    labels: np.ndarray
    overlap: np.ndarray
    ground_truth: np.ndarray


def voc_average_precision(
    ground_truths: Sequence[GroundTruth],
    detections: Mapping[int, Detections],
    num_classes: int,
    iou_threshold: float = 0.5,
) -> VOCResult:
    """Average precision per class, by the development kit's algorithm.

    The detections of a class are taken over all images in falling order of score. Each takes the ground truth of its
    class and image that it overlaps most. An overlap of at least `iou_threshold` with a difficult ground truth counts
    as nothing, with a ground truth not yet taken as true positive, with a taken one as false positive; less overlap is
    a false positive.

    Args:
        ground_truths: The images to evaluate, valid; `ignore` is VOC's `difficult`.
        detections: By image id, boxes in pixels of the stored image (continuous, 0-based, as the ground truth boxes);
            at most one entry an image, an image without an entry has none.
        num_classes: C > 0.
        iou_threshold: In (0, 1].

    Returns:
        The average precisions.

    Note:
        The development kit leaves the order of equal scores to the order of its results file. Here it is the order of
        `ground_truths`, then the order within an image. Where everything found of a class is difficult, the development
        kit divides 0 by 0 in the 11-point protocol; here the average precision is 0.
    """
    ap_11_point, ap_area = np.full(num_classes, np.nan), np.full(num_classes, np.nan)
    if not ground_truths:
        return VOCResult(ap_11_point, ap_area)
    matches = _match(ground_truths, detections)
    difficult = np.concatenate([ground_truth.ignore for ground_truth in ground_truths]).astype(bool)
    ground_truth_labels = np.concatenate([ground_truth.labels for ground_truth in ground_truths]).astype(np.int64)
    num_positives = np.bincount(ground_truth_labels[~difficult], minlength=num_classes)

    order = np.lexsort((-matches.scores, matches.labels))  # stable: by class, then score, then position
    starts = np.searchsorted(matches.labels[order], np.arange(num_classes + 1))
    for label in np.flatnonzero(num_positives):
        of_class = order[starts[label] : starts[label + 1]]
        hit = matches.overlap[of_class] >= iou_threshold
        true_positive = _true_positives(matches.ground_truth[of_class], hit, difficult)
        ap_11_point[label], ap_area[label] = _average_precisions(true_positive, int(num_positives[label]))
    return VOCResult(ap_11_point, ap_area)


def _true_positives(ground_truth: np.ndarray, hit: np.ndarray, difficult: np.ndarray) -> np.ndarray:
    """(P,) bool, whether each detection that counts is right, by falling score; `ground_truth` and `hit` are (D,)."""
    right = np.zeros(len(hit), dtype=bool)
    hits = np.flatnonzero(hit)
    _, first = np.unique(ground_truth[hits], return_index=True)  # only the first to reach a ground truth takes it
    right[hits[first]] = True
    counts = ~hit
    counts[hits] = ~difficult[ground_truth[hits]]
    counting: np.ndarray = right[counts]
    return counting


def _average_precisions(true_positive: np.ndarray, num_positives: int) -> tuple[float, float]:
    """11-point and area average precision from (P,) bool in falling order of score."""
    if not len(true_positive):
        return 0.0, 0.0
    found = np.cumsum(true_positive)
    recall = found / num_positives
    precision = found / np.arange(1, len(found) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    level = np.searchsorted(recall, _RECALL_LEVELS)  # first point whose recall reaches the level; P if none does
    eleven = np.append(best_from_here, 0.0)[level].mean()
    area = (np.diff(recall, prepend=0.0) * best_from_here).sum()
    return float(eleven), float(area)


def _match(ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections]) -> _Matches:
    scores, labels, overlaps, positions = [], [], [], []
    num_boxes_before = 0
    for ground_truth in ground_truths:
        found = detections.get(ground_truth.image_id)
        if found is not None and len(found.labels):
            boxes_xyxy = found.boxes_xyxy.detach().double().cpu().numpy()
            found_labels = found.labels.cpu().numpy()
            overlap, best = np.zeros(len(found_labels)), np.zeros(len(found_labels), dtype=np.int64)
            if len(ground_truth.labels):
                same_class = found_labels[:, None] == ground_truth.labels[None, :]
                of_pairs = np.where(same_class, _overlap(boxes_xyxy, ground_truth.boxes_xyxy), 0.0)  # (N, G)
                best = of_pairs.argmax(axis=1)  # the first on a tie
                overlap = of_pairs[np.arange(len(best)), best]
            scores.append(found.scores.detach().double().cpu().numpy())
            labels.append(found_labels)
            overlaps.append(overlap)
            positions.append(best + num_boxes_before)
        num_boxes_before += len(ground_truth.labels)
    if not scores:
        return _Matches(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
    return _Matches(*(np.concatenate(parts) for parts in (scores, labels, overlaps, positions)))


def _overlap(boxes_xyxy: np.ndarray, target_xyxy: np.ndarray) -> np.ndarray:
    """The development kit's IoU, which counts pixels from corner to corner inclusive: (N, 4), (G, 4) -> (N, G)."""
    left, top, right, bottom = (boxes_xyxy + _TO_INCLUSIVE).T[:, :, None]  # (N, 1)
    target_left, target_top, target_right, target_bottom = (target_xyxy + _TO_INCLUSIVE).T[:, None, :]  # (1, G)
    width = np.minimum(right, target_right) - np.maximum(left, target_left) + 1
    height = np.minimum(bottom, target_bottom) - np.maximum(top, target_top) + 1
    intersection = width * height
    union = (
        (right - left + 1) * (bottom - top + 1)
        + (target_right - target_left + 1) * (target_bottom - target_top + 1)
        - intersection
    )
    iou: np.ndarray = np.zeros_like(intersection)
    np.divide(intersection, union, out=iou, where=(width > 0) & (height > 0))
    return iou
