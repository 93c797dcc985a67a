"""Average precision and recall as COCO defines them, through torchmetrics.

Shape letters of the backend's arrays: T IoU thresholds (0.5 to 0.95), R recall levels, K classes seen in truths or
detections, A box areas (all, small, medium, large), L limits on the detections an image and class (1, 10, 100).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from anchor_lightning.metrics.records import check_inputs
from anchor_lightning.structures import Detections, GroundTruth

Backend = Literal["faster_coco_eval", "pycocotools"]

# torchmetrics' own default thresholds pass through float32: an IoU of exactly 0.6 would then miss the threshold 0.6.
_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
_LIMITS = [1, 10, 100]
_AT_50, _AT_75 = 0, 5
_AREAS = {"small": 1, "medium": 2, "large": 3}


@dataclass(frozen=True)
class COCOResult:
    """COCO's numbers for one set; NaN wherever there is no truth to measure against.

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
    truths: Sequence[GroundTruth],
    detections: Mapping[int, Detections],
    num_classes: int,
    backend: Backend = "faster_coco_eval",
) -> COCOResult:
    """COCO's average precision and recall.

    Args:
        truths: The images to evaluate; `ignore` is COCO's `iscrowd`, `area` decides between small, medium and large.
        detections: By image id, boxes in pixels of the stored image (continuous, 0-based, as the truths); an image
            without an entry has none. Equal scores keep the order of `truths`, then the order within an image.
        num_classes: C > 0.
        backend: What computes: `faster_coco_eval`, or COCO's own `pycocotools`, whose numbers are the same and which
            takes longer (`benchmarks/coco_backends.py`).

    Returns:
        The numbers.

    Raises:
        ValueError: Records that `check_inputs` refuses, or an unknown backend.
    """
    check_inputs(truths, detections, num_classes)
    if not any(len(truth.labels) for truth in truths):
        return _result(np.empty((10, 101, 0, 4, 3)), np.empty((10, 0, 4, 3)), [], num_classes)
    metric = MeanAveragePrecision(
        box_format="xyxy",
        iou_thresholds=_IOU_THRESHOLDS.tolist(),
        rec_thresholds=_RECALL_LEVELS.tolist(),
        max_detection_thresholds=_LIMITS,
        extended_summary=True,
        backend=backend,
        sync_on_compute=False,  # called on one rank alone, its own synchronisation would wait for ever
    )
    metric.warn_on_many_detections = False  # COCO's limit of 100 is part of the protocol
    metric.update([_found(detections.get(truth.image_id)) for truth in truths], [_annotated(truth) for truth in truths])
    with _silence():
        computed = metric.compute()
    precision, recall = computed["precision"].numpy(), computed["recall"].numpy()
    classes = computed["classes"].reshape(-1).tolist()  # a scalar where only one class is seen
    return _result(precision, recall, classes, num_classes)


def _result(precision: np.ndarray, recall: np.ndarray, classes: list[int], num_classes: int) -> COCOResult:
    """Means over the backend's arrays, (T, R, K, A, L) and (T, K, A, L), which hold -1 where there is no truth."""
    summary = {
        "map": _mean_of_defined(precision[..., 0, -1]),
        "map_50": _mean_of_defined(precision[_AT_50, ..., 0, -1]),
        "map_75": _mean_of_defined(precision[_AT_75, ..., 0, -1]),
    }
    summary |= {f"map_{name}": _mean_of_defined(precision[..., a, -1]) for name, a in _AREAS.items()}
    summary |= {f"mar_{limit}": _mean_of_defined(recall[..., 0, i]) for i, limit in enumerate(_LIMITS)}
    summary |= {f"mar_{name}": _mean_of_defined(recall[..., a, -1]) for name, a in _AREAS.items()}
    summary |= {f"map_50_{name}": _mean_of_defined(precision[_AT_50, ..., a, -1]) for name, a in _AREAS.items()}
    ap = np.full(num_classes, np.nan)
    for k, label in enumerate(classes):
        ap[label] = _mean_of_defined(precision[:, :, k, 0, -1])
    return COCOResult(summary, ap)


def _found(detections: Detections | None) -> dict[str, Tensor]:
    if detections is None:
        return {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    # float64: widths taken in float32 differ from those that pycocotools takes from the same corners
    return {
        "boxes": detections.boxes_xyxy.detach().double().cpu(),
        "scores": detections.scores.detach().double().cpu(),
        "labels": detections.labels.cpu(),
    }


def _annotated(truth: GroundTruth) -> dict[str, Tensor]:
    # torchmetrics takes an area of 0 for missing and puts width x height in its place
    area = np.maximum(truth.area, np.finfo(np.float64).tiny)
    return {
        "boxes": torch.from_numpy(truth.boxes_xyxy.astype(np.float64)),
        "labels": torch.from_numpy(truth.labels.astype(np.int64)),
        "iscrowd": torch.from_numpy(truth.ignore.astype(np.int64)),
        "area": torch.from_numpy(area.astype(np.float64)),
    }


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
