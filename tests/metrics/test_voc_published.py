"""VOC average precision against an independent package, `mean-average-precision` (MIT licence), as far as that goes.

It matches greedily with inclusive widths, as the development kit does. Where it departs from the kit we follow the kit,
and the comparison works round it:

- It asks for an overlap above the threshold; the kit counts one on it. It is given the next double below.
- It counts difficult boxes among those to be found; the kit does not. Its recall is turned back into the number found.
- It mixes up which box is difficult where an image has both kinds of one class: here all of a class are, or none is.
- Ties in score or overlap come in any order: it is given distinct scores in our order, and boxes that are never alike.
- The recall levels are the caller's, here MATLAB's; with its manual's a recall of exactly 6/10 would miss its level.
- A class without ground truth gets 0, and the result is float32. Classes with ground truth are compared, in float64.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mean_average_precision import MetricBuilder
from mean_average_precision.utils import compute_average_precision, compute_average_precision_with_recall_thresholds

from anchor_lightning.metrics.voc import voc_average_precision
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.metric_scenes import Scene, found, ground_truth, nothing, random_scene

MATLAB_LEVELS = np.array([0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
TO_INCLUSIVE = np.array([1, 1, 0, 0])
BOX = [10.0, 10.0, 50.0, 50.0]
ELSEWHERE = [100.0, 100.0, 140.0, 140.0]
PIXEL = [5.0, 5.0, 6.0, 6.0]


def published(
    ground_truths: list[GroundTruth], detections: dict[int, Detections], num_classes: int, threshold: float
) -> dict[int, tuple[float, float]]:
    """11-point and area average precision of each class with ground truth, by the package."""
    in_order = [detections.get(record.image_id, nothing()) for record in ground_truths]
    scores = torch.cat([here.scores for here in in_order])
    ranks = np.empty(len(scores))
    ranks[scores.argsort(descending=True, stable=True).numpy()] = np.arange(len(scores), 0, -1)
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=num_classes)
    start = 0
    for record, here in zip(ground_truths, in_order, strict=True):
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


HARD = {
    "a duplicate between two hits": (
        [ground_truth(1, [BOX, ELSEWHERE], [0, 0])],
        {1: found([BOX, BOX, ELSEWHERE], [0.9, 0.8, 0.7], [0, 0, 0])},
    ),
    "a duplicate with a second best ground truth": (
        [ground_truth(1, [[0, 0, 40, 40], [0, 10, 40, 50]], [0, 0])],
        {1: found([[0, 0, 40, 40], [0, 0, 40, 40]], [0.9, 0.8], [0, 0])},
    ),
    "a difficult ground truth hit twice": (
        [ground_truth(1, [BOX], [0], ignore=[True]), ground_truth(2, [BOX], [0])],
        {1: found([BOX, BOX], [0.9, 0.8], [0, 0]), 2: found([BOX], [0.7], [0])},
    ),
    "only a difficult ground truth hit": (
        [ground_truth(1, [BOX], [0], ignore=[True]), ground_truth(2, [BOX], [0])],
        {1: found([BOX], [0.9], [0])},
    ),
    "an overlap on the threshold and one below": (
        [ground_truth(1, [[0, 0, 10, 1]], [0]), ground_truth(2, [[0, 0, 10, 1]], [0])],
        {1: found([[0, 0, 5, 1]], [0.5], [0]), 2: found([[0, 0, 4, 1]], [0.4], [0])},
    ),
    "one pixel, and its neighbour": (
        [ground_truth(1, [PIXEL], [0]), ground_truth(2, [PIXEL], [0])],
        {1: found([PIXEL], [0.5], [0]), 2: found([[6, 5, 7, 6]], [0.6], [0])},
    ),
    "equal scores": (
        [ground_truth(7, [BOX], [0]), ground_truth(3, [BOX], [1])],
        {7: found([ELSEWHERE, BOX], [0.5, 0.5], [0, 0]), 3: found([BOX, BOX], [0.5, 0.5], [0, 1])},
    ),
    "six of ten": (
        [ground_truth(i, [BOX], [0]) for i in range(1, 11)],
        {i: found([BOX], [0.5], [0]) for i in range(1, 7)},
    ),
    "no detections, no ground truth, an image without ground truth": (
        [ground_truth(1, [BOX, ELSEWHERE], [0, 1]), ground_truth(2, [], [])],
        {1: found([BOX, BOX], [0.9, 0.8], [0, 2]), 2: found([BOX], [0.95], [0])},
    ),
}


@pytest.mark.parametrize("name", HARD)
def test_equals_the_package_where_it_is_hard(name: str) -> None:
    assert assert_is_published(HARD[name], 3) > 0
