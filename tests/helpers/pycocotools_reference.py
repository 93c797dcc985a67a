"""COCO's own evaluation, of our records or of files, against which the metrics are tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchor_lightning.structures import Detections, GroundTruth

TWELVE = [
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
]


def evaluate(annotated: COCO, results: COCO, proposal_limits: Sequence[int] | None = None) -> COCOeval:
    """COCO's evaluation of all images at once; as proposals, classes off, with `proposal_limits` an image."""
    evaluation = COCOeval(annotated, results, "bbox")
    if proposal_limits is not None:
        evaluation.params.useCats, evaluation.params.maxDets = 0, list(proposal_limits)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, math.inf]], ["all"]  # COCO's own ends at 1e10
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def summary(evaluation: COCOeval) -> dict[str, float]:
    """Its twelve numbers by our names, NaN where it writes -1."""
    evaluation.summarize()
    return {name: math.nan if v == -1 else float(v) for name, v in zip(TWELVE, evaluation.stats, strict=True)}


def as_coco(
    ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections], num_classes: int
) -> tuple[COCO, COCO]:
    """Our records as its two arguments; categories count from 1."""
    annotations = [
        _row(t.image_id, *row)
        for t in ground_truths
        for row in zip(t.boxes_xyxy.tolist(), t.labels, t.area, t.ignore, strict=True)
    ]
    results = [
        _row(image_id, box, label, (box[2] - box[0]) * (box[3] - box[1])) | {"score": float(score)}
        for image_id, d in detections.items()
        for box, label, score in zip(d.boxes_xyxy.tolist(), d.labels, d.scores, strict=True)
    ]
    datasets = COCO(), COCO()
    for dataset, rows in zip(datasets, (annotations, results), strict=True):
        dataset.dataset = {
            "images": [{"id": truth.image_id} for truth in ground_truths],
            "categories": [{"id": c + 1} for c in range(num_classes)],
            "annotations": [row | {"id": number} for number, row in enumerate(rows, start=1)],
        }
        dataset.createIndex()
    return datasets


def _row(image_id: int, box: list[float], label: int, area: float, crowd: bool = False) -> dict[str, object]:
    x1, y1, x2, y2 = box
    row = {"image_id": image_id, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
    return row | {"area": float(area), "iscrowd": int(crowd)}
