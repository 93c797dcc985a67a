"""Average precision and recall as COCO defines them, by faster-coco-eval: pycocotools' numbers in a fifth of the time.

Shape letters: C classes, N boxes of an image; of COCO's arrays: T IoU thresholds (0.5 to 0.95), R recall levels, A box
areas (all, small, medium, large), L limits on the detections an image and class (1, 10, 100).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval import COCOeval_faster as COCOeval

from anchor_lightning.metrics.base import MeanAveragePrecision, mean_of_defined
from anchor_lightning.structures import Detections, GroundTruth

LIMITS: Final = [1, 10, 100]
AT_50, AT_75 = 0, 5
_AREAS = {"small": 1, "medium": 2, "large": 3}


class COCOResult(NamedTuple):
    """COCO's numbers for one set; NaN wherever there is no ground truth to measure against.

    Args:
        summary: Fractions in [0, 1]. COCO's twelve: `map` (mean over IoU 0.5 to 0.95), `map_50`, `map_75`, `map_small`
            (area up to 32^2 pixels), `map_medium`, `map_large` (from 96^2), the recalls `mar_1`, `mar_10`, `mar_100`
            (by the limit on detections an image and class), `mar_small`, `mar_medium`, `mar_large`; then
            `map_50_small`, `map_50_medium`, `map_50_large` (the paper's Table 2).
        ap: (C,) float64, each class's part of `map`.
    """

    summary: dict[str, float]
    ap: np.ndarray


class COCOMeanAveragePrecision(MeanAveragePrecision):
    """COCO's mean average precision as a `torchmetrics.Metric`, the same on any number of ranks.

    `COCOResult.summary` and, for each class, `ap/CLASS`. Boxes are continuous (width x2 - x1). A detection, best score
    first, takes the ground truth of its class that it overlaps most among those still free, at IoU 0.5, 0.55, ... 0.95
    (of which the mean is taken; `map_50*` and `map_75` at one alone). Precision is read at 101 levels of recall. The
    best 100 detections of an image and class count, 1 or 10 for `mar_1` and `mar_10`. Crowds (`iscrowd` or `difficult`)
    need not be found, and any number of detections count as nothing of whose own area that share lies within one. For a
    size (small up to 32^2 pixels of annotated area, large from 96^2, medium between) ground truth boxes of other sizes
    need not be found, and detections that take one, or none and are of another size themselves, count as nothing. A
    class without a ground truth that counts is NaN and left out of the mean; a class with ground truth and without
    detections is 0.

    Used as `VOCMeanAveragePrecision`, and together with it in a `torchmetrics.MetricCollection`, which keeps what both
    need once.
    """

    def average_precision(
        self, ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections]
    ) -> dict[str, float]:
        """See the class."""
        result = coco_average_precision(ground_truths, detections, len(self.class_names))
        return result.summary | self.named("ap", result.ap)


def coco_average_precision(
    ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections], num_classes: int
) -> COCOResult:
    """COCO's average precision and recall.

    Args:
        ground_truths: The images to evaluate, valid; `ignore` is COCO's `iscrowd`, `area` decides between small, medium
            and large.
        detections: By image id, boxes in pixels of the stored image (continuous, 0-based, as the ground truth boxes);
            an image without an entry has none. Equal scores keep the order of the image ids, then the order within an
            image.
        num_classes: C > 0.

    Returns:
        The numbers.
    """
    precision, recall = evaluate(ground_truths, detections, num_classes)
    summary = {
        "map": precision[..., 0, -1],
        "map_50": precision[AT_50, ..., 0, -1],
        "map_75": precision[AT_75, ..., 0, -1],
    }
    summary |= {f"map_{name}": precision[..., a, -1] for name, a in _AREAS.items()}
    summary |= {f"mar_{limit}": recall[..., 0, i] for i, limit in enumerate(LIMITS)}
    summary |= {f"mar_{name}": recall[..., a, -1] for name, a in _AREAS.items()}
    summary |= {f"map_50_{name}": precision[AT_50, ..., a, -1] for name, a in _AREAS.items()}
    ap = np.array([mean_of_defined(precision[:, :, label, 0, -1]) for label in range(num_classes)])
    return COCOResult({name: mean_of_defined(values) for name, values in summary.items()}, ap)


def evaluate(
    ground_truths: Sequence[GroundTruth],
    detections: Mapping[int, Detections],
    num_classes: int,
    limits: Sequence[int] = LIMITS,
    by_area: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's precision (T, R, C, A, L) and recall (T, C, A, L); NaN where there is no ground truth.

    Args:
        ground_truths: The images, valid.
        detections: By image id.
        num_classes: C > 0.
        limits: L limits on the detections an image and class, rising.
        by_area: Whether by area as well; A is else 1.
    """
    annotations = [row for ground_truth in ground_truths for row in _annotations(ground_truth)]
    labels = range(num_classes)  # the classes' own numbers serve as categories
    results = [row for image_id, found in detections.items() for row in coco_results(image_id, found, labels)]
    for row in results:
        row["area"] = row["bbox"][2] * row["bbox"][3]
    datasets = []
    for rows in (annotations, results):
        for number, row in enumerate(rows, start=1):  # pycocotools takes a match with the number 0 for none
            row["id"] = number
        dataset = COCO(print_function=_silent)
        dataset.dataset = {
            "images": [{"id": ground_truth.image_id} for ground_truth in ground_truths],
            "categories": [{"id": label, "name": str(label)} for label in labels],
            "annotations": rows,
        }
        dataset.createIndex()
        datasets.append(dataset)
    evaluation = COCOeval(*datasets, "bbox", print_function=_silent)
    parameters = evaluation.params
    parameters.maxDets = list(limits)
    if not by_area:
        parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    # It writes -1, which must not be averaged.
    arrays = evaluation.eval["precision"], evaluation.eval["recall"]
    precision, recall = (np.where(array < 0, np.nan, array) for array in arrays)
    return precision, recall


def _silent(*_: object) -> None:
    """Prints nothing, where the library would log its tables."""


def coco_results(image_id: int, detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of an image as COCO results, the rows of the file that the evaluation server takes.

    Nothing is rounded: a file of these rows gives the numbers that `coco_average_precision` gives, and scores that
    differ stay apart.

    Args:
        image_id: Of the image.
        detections: N boxes in pixels of the stored image.
        category_ids: (C,) the data set's category of each label.

    Returns:
        N rows of `image_id`, `category_id`, `bbox` (left, top, width and height in pixels) and `score`, in the order of
        `detections`.
    """
    boxes_xywh = _to_xywh(detections.boxes_xyxy.detach().double().cpu().numpy())
    columns = (boxes_xywh, detections.labels.tolist(), detections.scores.double().tolist())
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, label, score in zip(*columns, strict=True)
    ]


def _annotations(ground_truth: GroundTruth) -> list[dict[str, Any]]:
    columns = (
        _to_xywh(ground_truth.boxes_xyxy),
        ground_truth.labels.tolist(),
        ground_truth.area.tolist(),
        ground_truth.ignore.tolist(),
    )
    return [
        {"image_id": ground_truth.image_id, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for box, label, area, crowd in zip(*columns, strict=True)
    ]


def _to_xywh(boxes_xyxy: np.ndarray) -> list[list[float]]:
    """(N, 4) corners to rows of left, top, width, height, taken in float64 as from corners in COCO's own files."""
    boxes_xyxy = boxes_xyxy.astype(np.float64)
    boxes_xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)
    rows: list[list[float]] = boxes_xywh.tolist()
    return rows
