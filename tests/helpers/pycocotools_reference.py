"""COCO's own evaluation of our records, against which the metrics are tested."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchor_lightning.structures import Detections, GroundTruth


def evaluate_directly(
    ground_truths: Sequence[GroundTruth],
    detections: Mapping[int, Detections],
    num_classes: int,
    proposal_limits: Sequence[int] | None = None,
) -> COCOeval:
    """COCO's evaluation of all images at once; as proposals, classes off, with `proposal_limits` an image."""
    annotations, results = [], []
    for record in ground_truths:
        for k, (x1, y1, x2, y2) in enumerate(record.boxes_xyxy.tolist()):
            annotation = {"image_id": record.image_id, "category_id": int(record.labels[k]) + 1}
            annotation |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(record.area[k])}
            annotations.append({**annotation, "id": len(annotations) + 1, "iscrowd": int(record.ignore[k])})
    for image_id, here in detections.items():
        for k, (x1, y1, x2, y2) in enumerate(here.boxes_xyxy.tolist()):
            result = {"image_id": image_id, "category_id": int(here.labels[k]) + 1, "score": float(here.scores[k])}
            result |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            results.append({**result, "id": len(results) + 1, "iscrowd": 0})
    datasets = []
    with contextlib.redirect_stdout(io.StringIO()):
        for rows in (annotations, results):
            datasets.append(COCO())
            datasets[-1].dataset = {
                "images": [{"id": record.image_id} for record in ground_truths],
                "categories": [{"id": c + 1, "name": str(c)} for c in range(num_classes)],
                "annotations": rows,
            }
            datasets[-1].createIndex()
        evaluation = COCOeval(*datasets, "bbox")
        if proposal_limits is not None:
            evaluation.params.useCats, evaluation.params.maxDets = 0, list(proposal_limits)
        evaluation.evaluate()
        evaluation.accumulate()
        if proposal_limits is None:
            evaluation.summarize()
    return evaluation
