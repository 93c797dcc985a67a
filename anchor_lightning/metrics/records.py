"""Checks that every metric makes on its input before it counts anything.

A bad record must never reach a metric: pycocotools scores a box of NaNs as a perfect match.

Shape letters: G ground truth boxes of an image, N detections of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from anchor_lightning.structures import Detections, GroundTruth


def check_ground_truths(ground_truths: Iterable[GroundTruth], num_classes: int) -> None:
    """Refuses annotations that a metric would count wrongly.

    Args:
        ground_truths: The annotated images, any number.
        num_classes: C > 0.

    Raises:
        ValueError: An image id that is not positive or occurs twice, fields of different lengths, a label outside
            [0, C), or a box or area that is not finite. Each names the image.
    """
    seen: set[int] = set()
    for ground_truth in ground_truths:
        image_id, count = ground_truth.image_id, len(ground_truth.labels)
        if image_id < 1:
            raise ValueError(f"ground truth image id {image_id}: ids must start at 1")
        if image_id in seen:
            raise ValueError(f"ground truth image id {image_id} occurs twice: ids must be unique within a data set")
        seen.add(image_id)
        if (
            ground_truth.boxes_xyxy.shape != (count, 4)
            or ground_truth.ignore.shape != (count,)
            or ground_truth.area.shape != (count,)
        ):
            raise ValueError(
                f"ground truth of image {image_id}: {count} labels, but boxes_xyxy {ground_truth.boxes_xyxy.shape}, "
                f"ignore {ground_truth.ignore.shape}, area {ground_truth.area.shape}; expected (N, 4), (N,), (N,)"
            )
        if not (np.isfinite(ground_truth.boxes_xyxy).all() and np.isfinite(ground_truth.area).all()):
            raise ValueError(f"ground truth of image {image_id}: boxes_xyxy or area is not finite")
        if count and not (ground_truth.labels.min() >= 0 and ground_truth.labels.max() < num_classes):
            raise ValueError(f"ground truth of image {image_id}: a label lies outside [0, {num_classes})")


def check_detections(image_id: int, detections: Detections, num_classes: int) -> None:
    """Refuses the detections of one image where a metric would count them wrongly.

    Args:
        image_id: Named in the message.
        detections: N >= 0 boxes.
        num_classes: C > 0.

    Raises:
        ValueError: Fields of different lengths, a box or score that is not finite, or a label outside [0, C).
    """
    boxes_xyxy, scores, labels = detections.boxes_xyxy, detections.scores, detections.labels
    count = len(labels)
    if boxes_xyxy.shape != (count, 4) or scores.shape != (count,):
        raise ValueError(
            f"detections of image {image_id}: {count} labels, but boxes_xyxy {tuple(boxes_xyxy.shape)} and scores "
            f"{tuple(scores.shape)}; expected (N, 4) and (N,)"
        )
    for name, values in (("boxes_xyxy", boxes_xyxy), ("scores", scores)):
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"detections of image {image_id}: {name} holds NaN or infinity; the network's output is broken "
                "(look at the loss and the learning rate before this step)"
            )
    if count and not bool(((labels >= 0) & (labels < num_classes)).all()):
        raise ValueError(f"detections of image {image_id}: a label lies outside [0, {num_classes})")


def check_inputs(ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections], num_classes: int) -> None:
    """Refuses ground truth boxes and detections that do not belong together, or that either check above refuses.

    Args:
        ground_truths: The images to evaluate.
        detections: By image id; an image without an entry has no detections.
        num_classes: C > 0.

    Raises:
        ValueError: As `check_ground_truths` and `check_detections`, and for detections of an image that has no ground
            truth record.
    """
    check_ground_truths(ground_truths, num_classes)
    unknown = sorted(detections.keys() - {ground_truth.image_id for ground_truth in ground_truths})
    if unknown:
        raise ValueError(f"detections of unknown image ids {unknown[:5]}: the ground truth has no such images")
    for image_id, found in detections.items():
        check_detections(image_id, found, num_classes)
