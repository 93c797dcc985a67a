"""VOC average precision against an independent package, `mean-average-precision` (MIT licence), as far as that goes.

It matches detections greedily with inclusive widths, as the development kit does, and interpolates at given recall
levels or over the area. Where it departs from the development kit we follow the kit, and the comparison works round it:

- It asks for an overlap above the threshold; the kit (`ovmax >= VOCopts.minoverlap`) counts one on it. It is given the
  next double below.
- It counts difficult ground truth boxes among those that must be found; the kit (`npos + sum(~difficult)`) does not.
  Its recall is turned back into the number found and divided by the kit's count.
- It mixes up which ground truth is difficult where an image has difficult and other ground truth boxes of one class
  (`np.repeat` where `np.tile` is meant). In an image all ground truth boxes of a class are difficult, or none is.
- Scores that tie come in any order, and of two ground truth boxes that a detection overlaps alike it may take either;
  the kit takes the first. It is given distinct scores in the order that we promise, and ground truth boxes that are
  never
  alike.
- The recall levels are the caller's; with those of its manual, `np.arange(0, 1.1, 0.1)`, a recall of exactly 6/10 or
  7/10 would miss its level. It is given MATLAB's.
- A class without ground truth gets 0 instead of being left out, and the end result is rounded to float32. Classes with
  ground truth are compared, from its own precision and recall with its own interpolation, in float64.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mean_average_precision import MetricBuilder
from mean_average_precision.utils import compute_average_precision, compute_average_precision_with_recall_thresholds

from anchor_lightning.metrics.voc import voc_average_precision
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.metric_scenes import Scene, found, ground_truth, random_scene

MATLAB_LEVELS = np.array([0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
TO_INCLUSIVE = np.array([1, 1, 0, 0])
BOX = [10.0, 10.0, 50.0, 50.0]
ELSEWHERE = [100.0, 100.0, 140.0, 140.0]
PIXEL = [5.0, 5.0, 6.0, 6.0]


def published(
    ground_truths: list[GroundTruth], detections: dict[int, Detections], num_classes: int, threshold: float
) -> dict[int, tuple[float, float]]:
    """11-point and area average precision of each class with ground truth, by the package."""
    scores = [
        float(s)
        for record in ground_truths
        if record.image_id in detections
        for s in detections[record.image_id].scores
    ]
    ranks = np.empty(len(scores))
    ranks[sorted(range(len(scores)), key=lambda i: -scores[i])] = np.arange(len(scores), 0, -1)
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=num_classes)
    start = 0
    for record in ground_truths:
        boxes, labels = np.zeros((0, 4)), np.zeros(0)
        if record.image_id in detections:
            here = detections[record.image_id]
            boxes, labels = here.boxes_xyxy.double().numpy(), here.labels.numpy()
        confidence = ranks[start : start + len(labels)]
        start += len(labels)
        annotated = [record.boxes_xyxy + TO_INCLUSIVE, record.labels, record.ignore, np.zeros(len(record.labels))]
        metric.add(np.column_stack([boxes + TO_INCLUSIVE, labels, confidence]), np.column_stack(annotated))
    above = float(np.nextafter(threshold, 0))
    by_class = metric.value(iou_thresholds=above, recall_thresholds=MATLAB_LEVELS, mpolicy="greedy")[above]
    result = {}
    for label in range(num_classes):
        of_class = [~record.ignore[record.labels == label] for record in ground_truths]
        counted, given = sum(int(c.sum()) for c in of_class), sum(len(c) for c in of_class)
        if not counted:
            continue
        precision = by_class[label]["precision"]
        recall = np.rint(by_class[label]["recall"] * given) / counted
        eleven = compute_average_precision_with_recall_thresholds(precision, recall, MATLAB_LEVELS)
        if counted == given:
            assert float(by_class[label]["ap"]) == pytest.approx(eleven, abs=1e-6)
        result[label] = (float(eleven), float(compute_average_precision(precision, recall)))
    return result


def assert_is_published(scene: Scene, num_classes: int, threshold: float = 0.5) -> int:
    """Compares and returns the number of classes compared."""
    result = voc_average_precision(*scene, num_classes, threshold)
    expected = published(*scene, num_classes, threshold)
    assert sorted(expected) == np.flatnonzero(~np.isnan(result.ap_area)).tolist()
    for label, (eleven, area) in expected.items():
        assert result.ap_11_point[label] == pytest.approx(eleven, abs=1e-9)
        assert result.ap_area[label] == pytest.approx(area, abs=1e-9)
    return len(expected)


def comparable_scene(seed: int, num_images: int, num_classes: int, **options: int) -> Scene:
    """A random scene as the package can read it, see above."""
    ground_truths, detections = random_scene(seed, num_images, num_classes, **options)
    rng = np.random.default_rng(seed)
    for record in ground_truths:
        # The same for all corners of a box: no two ground truth boxes overlap a detection alike, and one pixel stays
        # one pixel.
        record.boxes_xyxy[:] += np.tile(rng.uniform(-0.2, 0.2, (len(record.labels), 2)), 2)
        record.ignore[:] = (rng.random(num_classes) < 0.3)[record.labels]
    return ground_truths, detections


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_images=st.integers(1, 6),
    num_classes=st.integers(1, 4),
    scale=st.sampled_from([2, 5, 10]),
    threshold=st.sampled_from([0.3, 0.5, 0.75, 1.0]),
)
def test_equals_the_package_on_random_scenes(
    seed: int, num_images: int, num_classes: int, scale: int, threshold: float
) -> None:
    assert_is_published(comparable_scene(seed, num_images, num_classes, scale=scale), num_classes, threshold)


@pytest.mark.parametrize("seed", range(2))
def test_equals_the_package_on_crowded_scenes(seed: int) -> None:
    assert assert_is_published(comparable_scene(seed, 10, 2, max_boxes=15, max_found=40), 2) == 2


@pytest.mark.parametrize(
    ("ground_truths", "detections"),
    [
        pytest.param(
            [ground_truth(1, [BOX, ELSEWHERE], [0, 0])],
            {1: found([BOX, BOX, ELSEWHERE], [0.9, 0.8, 0.7], [0, 0, 0])},
            id="a duplicate between two hits",
        ),
        pytest.param(
            [ground_truth(1, [[0, 0, 40, 40], [0, 10, 40, 50]], [0, 0])],
            {1: found([[0, 0, 40, 40], [0, 0, 40, 40]], [0.9, 0.8], [0, 0])},
            id="a duplicate with a second best ground truth",
        ),
        pytest.param(
            [ground_truth(1, [BOX], [0], ignore=[True]), ground_truth(2, [BOX], [0])],
            {1: found([BOX, BOX], [0.9, 0.8], [0, 0]), 2: found([BOX], [0.7], [0])},
            id="a difficult ground truth hit twice",
        ),
        pytest.param(
            [ground_truth(1, [BOX], [0], ignore=[True]), ground_truth(2, [BOX], [0])],
            {1: found([BOX], [0.9], [0])},
            id="only a difficult ground truth hit",
        ),
        pytest.param(
            [ground_truth(1, [[0, 0, 10, 1]], [0]), ground_truth(2, [[0, 0, 10, 1]], [0])],
            {1: found([[0, 0, 5, 1]], [0.5], [0]), 2: found([[0, 0, 4, 1]], [0.4], [0])},
            id="an overlap on the threshold and one below",
        ),
        pytest.param(
            [ground_truth(1, [PIXEL], [0]), ground_truth(2, [PIXEL], [0])],
            {1: found([PIXEL], [0.5], [0]), 2: found([[6, 5, 7, 6]], [0.6], [0])},
            id="one pixel, and its neighbour",
        ),
        pytest.param(
            [ground_truth(7, [BOX], [0]), ground_truth(3, [BOX], [1])],
            {7: found([ELSEWHERE, BOX], [0.5, 0.5], [0, 0]), 3: found([BOX, BOX], [0.5, 0.5], [0, 1])},
            id="equal scores",
        ),
        pytest.param(
            [ground_truth(i, [BOX], [0]) for i in range(1, 11)], {1: found([BOX], [0.5], [0])}, id="one of ten"
        ),
        pytest.param(
            [ground_truth(i, [BOX], [0]) for i in range(1, 11)],
            {i: found([BOX], [0.5], [0]) for i in range(1, 7)},
            id="six of ten",
        ),
        pytest.param(
            [ground_truth(1, [BOX, ELSEWHERE], [0, 1]), ground_truth(2, [], [])],
            {1: found([BOX, BOX], [0.9, 0.8], [0, 2]), 2: found([BOX], [0.95], [0])},
            id="no detections, no ground truth, an image without ground truth",
        ),
    ],
)
def test_equals_the_package_where_it_is_hard(
    ground_truths: list[GroundTruth], detections: dict[int, Detections]
) -> None:
    assert assert_is_published((ground_truths, detections), 3) > 0
