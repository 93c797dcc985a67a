"""The confusion matrix of a detector, by hand and against COCO's matches."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

from anchor_lightning.errors import UserError
from anchor_lightning.metrics import DetectionConfusionMatrix
from anchor_lightning.metrics.coco import RECALLS, coco_average_precision
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.metric_scenes import BOX, ELSEWHERE, found, ground_truth, random_scene, torchmetrics_input

FAR = [200.0, 200.0, 240.0, 240.0]
HALF = [10.0, 10.0, 50.0, 30.0]  # half of BOX
CAT, DOG, NONE = 0, 1, 2


def matrix(truth: GroundTruth, detections: Detections, **options: float) -> list[list[int]]:
    metric = DetectionConfusionMatrix(2, **options)
    metric.update(*torchmetrics_input([truth], {truth.image_id: detections}))
    cells: Tensor = metric.compute()
    rows: list[list[int]] = cells.tolist()
    return rows


def test_a_scene_by_hand() -> None:
    """A cat found, a cat called a dog, a dog missed; a dog where nothing is, and a box that scores too little."""
    truth = ground_truth(1, [BOX, ELSEWHERE, FAR], [CAT, CAT, DOG])
    detections = found([BOX, ELSEWHERE, [300, 300, 340, 340], FAR], [0.9, 0.5, 0.4, 0.25], [CAT, DOG, DOG, DOG])
    assert matrix(truth, detections) == [
        [1, 1, 0],  # cats: found, called a dog, missed
        [0, 0, 1],
        [0, 1, 0],
    ]
    assert matrix(truth, detections, score_threshold=0.25)[DOG] == [0, 1, 0]


def test_a_second_detection_of_a_box_is_of_the_background() -> None:
    detections = found([BOX, BOX], [0.8, 0.9], [CAT, CAT])
    assert matrix(ground_truth(1, [BOX], [CAT]), detections) == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_detections_of_the_box_s_own_class_come_first() -> None:
    """The better score of a dog there does not take the cat's box."""
    detections = found([BOX, BOX], [0.9, 0.4], [DOG, CAT])
    assert matrix(ground_truth(1, [BOX], [CAT]), detections) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_overlap_counts_from_the_threshold_on() -> None:
    truth, detections = ground_truth(1, [BOX], [CAT]), found([HALF], [0.9], [CAT])
    assert matrix(truth, detections) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert matrix(truth, detections, iou_threshold=0.51) == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_boxes_that_need_not_be_found_are_in_no_row() -> None:
    """Of any number of detections within one, those of its own class count as nothing."""
    truth = ground_truth(1, [BOX], [CAT], ignore=[True])
    detections = found([BOX, HALF, HALF], [0.9, 0.8, 0.7], [CAT, CAT, DOG])
    assert matrix(truth, detections) == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_empty_images() -> None:
    assert matrix(ground_truth(1, []), found([], [])) == [[0] * 3] * 3
    assert matrix(ground_truth(1, []), found([BOX], [0.9], [DOG])) == [[0] * 3] * 2 + [[0, 1, 0]]
    assert matrix(ground_truth(1, [BOX], [DOG]), found([], [])) == [[0] * 3, [0, 0, 1], [0] * 3]


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_coco(seed: int) -> None:
    """Found boxes are COCO's at IoU 0.5: the highest recall; every box is in a row once."""
    ground_truths, detections = random_scene(seed, num_images=6, num_classes=3)
    metric = DetectionConfusionMatrix(3, score_threshold=0.0)
    metric.update(*torchmetrics_input(ground_truths, detections))
    cells = metric.compute().numpy()
    labels = np.concatenate([truth.labels[~truth.ignore] for truth in ground_truths])
    assert cells[:3].sum(axis=1).tolist() == np.bincount(labels, minlength=3).tolist()
    precision = coco_average_precision(ground_truths, detections, 3).precision_50
    for label in range(3):
        if (count := cells[label].sum()) > 0:
            reached = RECALLS[precision[label] > 0].max(initial=0)
            assert reached <= cells[label, label] / count + 1e-9 < reached + 0.01 + 1e-9


def test_invalid_options_and_labels() -> None:
    with pytest.raises(UserError, match="score_threshold"):
        DetectionConfusionMatrix(2, score_threshold=1.1)
    with pytest.raises(UserError, match="iou_threshold"):
        DetectionConfusionMatrix(2, iou_threshold=0.0)
    with pytest.raises(ValueError, match=r"label lies outside \[0, 2\)"):
        matrix(ground_truth(1, [BOX], [2]), found([], []))
