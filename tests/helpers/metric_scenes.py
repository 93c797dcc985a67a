"""Small made scenes for the metric tests: integer boxes and few score values, so that ties and thresholds are hit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric, MetricCollection

from anchor_lightning.structures import Detections, GroundTruth

Scene = tuple[list[GroundTruth], dict[int, Detections]]
BOX = [10.0, 10.0, 50.0, 50.0]  # 40 x 40: of medium size
ELSEWHERE = [100.0, 100.0, 140.0, 140.0]


def ground_truth(
    image_id: int,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int] | None = None,
    ignore: Sequence[bool] | None = None,
    area: Sequence[float] | None = None,
) -> GroundTruth:
    """A ground truth record from plain lists, of class 0 if no labels are given; the area is width x height."""
    boxes_xyxy = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    wh = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    flags = np.zeros(len(boxes), dtype=bool) if ignore is None else np.array(ignore, dtype=bool)
    classes = np.zeros(len(boxes), dtype=np.int64) if labels is None else np.array(labels, dtype=np.int64)
    return GroundTruth(image_id, boxes_xyxy, classes, flags, wh.prod(1) if area is None else np.array(area))


def found(boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int] | None = None) -> Detections:
    """A detection record from plain lists, of class 0 if no labels are given."""
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor([0] * len(scores) if labels is None else labels, dtype=torch.int64),
        torch.zeros(len(scores), dtype=torch.int64),
    )


def torchmetrics_input(
    ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records as `preds` and `target` of a metric, with image ids; an image without an entry has no detections."""
    here = [detections.get(truth.image_id, found([], [])) for truth in ground_truths]
    preds = [{"boxes": d.boxes_xyxy, "scores": d.scores, "labels": d.labels} for d in here]
    names = {"image_id": "image_id", "boxes": "boxes_xyxy", "labels": "labels", "iscrowd": "ignore", "area": "area"}
    target = [{key: torch.tensor(getattr(t, name)) for key, name in names.items()} for t in ground_truths]
    return preds, target


def numbers(metric: Metric | MetricCollection) -> dict[str, float]:
    """What a metric computes, as plain numbers."""
    return {name: float(value) for name, value in metric.compute().items()}


def random_scene(
    seed: int, num_images: int = 6, num_classes: int = 3, scale: int = 10, max_boxes: int = 6, max_found: int = 20
) -> Scene:
    """Ground truth boxes on an integer grid, detections near them or anywhere.

    Scores come from nine values and boxes from a grid of `scale` pixels, so equal scores, equal overlaps, duplicates
    and overlaps on a threshold are common. Boxes are 1 to 4 grid steps wide, or one pixel. Some images have no ground
    truth, some no detections, some no entry at all; some ground truth boxes are to be ignored, and the last class has
    no ground truth half of the time.
    """
    rng = np.random.default_rng(seed)
    ground_truths, detections = [], {}
    with_truth = num_classes - int(num_classes > 1 and rng.random() < 0.5)
    for image_id in range(1, num_images + 1):
        count, num_found = (int(rng.integers(0, most + 1)) for most in (max_boxes, max_found))
        boxes, found_boxes = _boxes(rng, count, scale), _boxes(rng, num_found, scale)
        labels, found_labels = rng.integers(0, with_truth, count), rng.integers(0, num_classes, num_found)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1) * rng.choice([0.0, 0.5, 1.0], count)
        ground_truths.append(GroundTruth(image_id, boxes, labels, rng.random(count) < 0.25, area))
        if count:
            near = rng.integers(0, count, num_found)
            moved = rng.integers(-1, 2, (num_found, 4)) * rng.choice([0, 1, scale // 2], (num_found, 1))
            take = rng.random(num_found) < 0.7
            found_boxes[take] = (boxes[near] + moved)[take]
            found_boxes[:, 2:] = np.maximum(found_boxes[:, 2:], found_boxes[:, :2])
            found_labels[take] = labels[near][take]
        scores = rng.integers(1, 10, num_found) / 10
        if rng.random() > 0.15:
            detections[image_id] = found(found_boxes.tolist(), scores.tolist(), found_labels.tolist())
    return ground_truths, detections


def _boxes(rng: np.random.Generator, count: int, scale: int) -> np.ndarray:
    left_top = rng.integers(0, 5, (count, 2)) * scale
    wh = np.where(rng.random((count, 1)) < 0.15, 1, rng.integers(1, 5, (count, 2)) * scale)
    return np.concatenate([left_top, left_top + wh], axis=1).astype(np.float64)
