"""Average precision and recall as COCO defines them, by COCO's own evaluation or its faster twin.

Shape letters: C classes, N boxes of an image; of the backend's arrays: T IoU thresholds (0.5 to 0.95), R recall levels,
A box areas (all, small, medium, large), L limits on the detections an image and class (1, 10, 100).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval

from anchor_lightning.metrics.records import check_inputs
from anchor_lightning.structures import Detections, GroundTruth

Backend = Literal["faster_coco_eval", "pycocotools"]

# What holds annotations, and what evaluates two of them; both have the same interface.
_BACKENDS = {
    "faster_coco_eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    "pycocotools": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
}
_LIMITS = [1, 10, 100]
_AT_50, _AT_75 = 0, 5
_AREAS = {"small": 1, "medium": 2, "large": 3}


@dataclass(frozen=True)
class COCOResult:
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


def coco_average_precision(
    ground_truths: Sequence[GroundTruth],
    detections: Mapping[int, Detections],
    num_classes: int,
    backend: Backend = "faster_coco_eval",
) -> COCOResult:
    """COCO's average precision and recall.

    Args:
        ground_truths: The images to evaluate; `ignore` is COCO's `iscrowd`, `area` decides between small, medium and
            large.
        detections: By image id, boxes in pixels of the stored image (continuous, 0-based, as the ground truth boxes);
            an image without an entry has none. Equal scores keep the order of the image ids, then the order within an
            image.
        num_classes: C > 0.
        backend: What computes: `faster_coco_eval`, or COCO's own `pycocotools`, whose numbers are the same and which
            takes longer (`benchmarks/coco_backends.py`).

    Returns:
        The numbers.

    Raises:
        ValueError: Records that `check_inputs` refuses, or an unknown backend.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"unknown COCO backend {backend!r}; choose {' or '.join(_BACKENDS)}")
    check_inputs(ground_truths, detections, num_classes)
    annotations = [row for ground_truth in ground_truths for row in _annotations(ground_truth)]
    labels = range(num_classes)  # the classes' own numbers serve as categories
    results = [row for image_id, found in detections.items() for row in coco_results(image_id, found, labels)]
    for row in results:
        row["area"] = row["bbox"][2] * row["bbox"][3]
    dataset_class, evaluation_class = _BACKENDS[backend]
    datasets = []
    with _silence():
        for rows in (annotations, results):
            for number, row in enumerate(rows, start=1):  # pycocotools takes a match with the number 0 for none
                row["id"] = number
            dataset = dataset_class()
            dataset.dataset = {
                "images": [{"id": ground_truth.image_id} for ground_truth in ground_truths],
                "categories": [{"id": label, "name": str(label)} for label in labels],
                "annotations": rows,
            }
            dataset.createIndex()
            datasets.append(dataset)
        evaluation = evaluation_class(*datasets, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return _result(evaluation.eval["precision"], evaluation.eval["recall"])


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


def _result(precision: np.ndarray, recall: np.ndarray) -> COCOResult:
    """Means over the backend's arrays, (T, R, C, A, L) and (T, C, A, L); -1 stands where there is no ground truth."""
    summary = {
        "map": _mean_of_defined(precision[..., 0, -1]),
        "map_50": _mean_of_defined(precision[_AT_50, ..., 0, -1]),
        "map_75": _mean_of_defined(precision[_AT_75, ..., 0, -1]),
    }
    summary |= {f"map_{name}": _mean_of_defined(precision[..., a, -1]) for name, a in _AREAS.items()}
    summary |= {f"mar_{limit}": _mean_of_defined(recall[..., 0, i]) for i, limit in enumerate(_LIMITS)}
    summary |= {f"mar_{name}": _mean_of_defined(recall[..., a, -1]) for name, a in _AREAS.items()}
    summary |= {f"map_50_{name}": _mean_of_defined(precision[_AT_50, ..., a, -1]) for name, a in _AREAS.items()}
    ap = np.array([_mean_of_defined(precision[:, :, label, 0, -1]) for label in range(precision.shape[2])])
    return COCOResult(summary, ap)


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else float("nan")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the backends' tables out of the console: one prints them, the other logs them."""
    logger = logging.getLogger("faster_coco_eval")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
