"""COCO average precision against pycocotools' own evaluation, and against values worked by hand."""

from __future__ import annotations

import logging
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_lightning.metrics.coco import COCOMeanAveragePrecision, coco_average_precision
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.metric_scenes import BOX, ELSEWHERE, found, ground_truth, numbers, random_scene, torchmetrics_input
from tests.helpers.pycocotools_reference import as_coco, evaluate, summary

SMALL = [200.0, 200.0, 210.0, 210.0]
SIZES = ("small", "medium", "large")


def assert_is_pycocotools(
    ground_truths: list[GroundTruth], detections: dict[int, Detections], num_classes: int = 1
) -> dict[str, float]:
    result = coco_average_precision(ground_truths, detections, num_classes)
    direct = evaluate(*as_coco(ground_truths, detections, num_classes))
    precision = direct.eval["precision"][..., 2]  # thresholds, recall levels, classes, areas; at most 100 detections

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else math.nan

    expected = summary(direct) | {f"map_50_{name}": mean(precision[0, ..., a]) for a, name in enumerate(SIZES, 1)}
    assert list(result.summary) == list(expected)
    assert result.summary == pytest.approx(expected, abs=1e-12, nan_ok=True)
    per_class = [mean(precision[:, :, c, 0]) for c in range(num_classes)]
    np.testing.assert_allclose(result.ap, per_class, rtol=0, atol=1e-12)
    for array, name in ((result.precision_50, "precision"), (result.scores_50, "scores")):
        expected_array = direct.eval[name][0, :, :, 0, 2].T
        np.testing.assert_allclose(array, np.where(expected_array < 0, np.nan, expected_array), rtol=0, atol=1e-12)
    return result.summary


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_images=st.integers(1, 6),
    num_classes=st.integers(1, 4),
    scale=st.sampled_from([5, 10, 20, 40]),
    backwards=st.booleans(),
)
def test_equals_pycocotools_on_random_scenes_with_crowds(
    seed: int, num_images: int, num_classes: int, scale: int, backwards: bool
) -> None:
    ground_truths, detections = random_scene(seed, num_images, num_classes, scale)
    assert_is_pycocotools(ground_truths[::-1] if backwards else ground_truths, detections, num_classes)


def test_equals_pycocotools_beyond_a_hundred_detections_an_image() -> None:
    ground_truths, detections = random_scene(5, num_images=4, num_classes=1, scale=30, max_boxes=30, max_found=400)
    assert max(len(here.labels) for here in detections.values()) > 100
    assert_is_pycocotools(ground_truths, detections)


def test_an_overlap_on_a_threshold_reaches_it() -> None:
    # IoU 60 / 100 = 0.6 reaches 0.5, 0.55 and 0.6: three of ten thresholds, each with average precision 1.
    result = coco_average_precision([ground_truth(1, [[0, 0, 10, 10]])], {1: found([[0, 0, 6, 10]], [0.5])}, 1)
    assert [result.summary[name] for name in ("map", "map_50", "map_75")] == pytest.approx([0.3, 1, 0], abs=1e-12)


def test_widths_are_taken_in_double_precision() -> None:
    # The upper half of the ground truth: IoU 1/2. In float32 the width 4096 - 2^-14 would round up to 4096: below 1/2.
    left = 2.0**-14
    metric = COCOMeanAveragePrecision(1)
    metric.update(
        *torchmetrics_input([ground_truth(1, [[left, 0, 4096, 20]])], {1: found([[left, 0, 4096, 10]], [0.5])})
    )
    assert numbers(metric)["map_50"] == 1


def test_average_precision_by_size_by_hand() -> None:
    # One medium ground truth, found with IoU 0.64 (32 x 32 of 40 x 40: reaches 0.5, 0.55, 0.6), one small ground truth,
    # missed. The recall levels 0 to 0.5 are 51 of 101: over all sizes AP at 0.5 is 51 / 101, medium alone 1, small
    # alone 0.
    ground_truths = [ground_truth(1, [BOX, SMALL])]
    result = coco_average_precision(ground_truths, {1: found([[10, 10, 42, 42]], [0.5])}, 1).summary
    expected = {"map_50": 51 / 101, "map": 0.3 * 51 / 101, "map_50_medium": 1, "map_50_small": 0, "map_medium": 0.3}
    expected |= {"mar_100": 0.3 / 2, "map_50_large": math.nan, "map_large": math.nan, "mar_large": math.nan}
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("area", "sizes"),
    [(0, ["small"]), (32**2, ["small", "medium"]), (5000, ["medium"]), (96**2, ["medium", "large"]), (1e4, ["large"])],
)
def test_the_annotated_area_decides_the_size_and_on_a_limit_belongs_to_both(area: float, sizes: list[str]) -> None:
    result = assert_is_pycocotools([ground_truth(1, [BOX], area=[area])], {1: found([BOX], [0.5])})
    for kind in ("map", "map_50"):
        assert [name for name in SIZES if result[f"{kind}_{name}"] == pytest.approx(1)] == sizes
        assert sum(math.isnan(result[f"{kind}_{name}"]) for name in SIZES) == 3 - len(sizes)


def test_a_crowd_takes_any_number_of_detections_by_their_own_area() -> None:
    # Two small boxes within a large crowd (IoU far below 0.5) count as nothing; the third, outside, is wrong. One
    # ground truth found after it: precision 1/2 at recall 1. Without the wrong one: 1.
    ground_truths = [ground_truth(1, [[0, 0, 400, 400], [500, 500, 540, 540]], ignore=[True, False])]
    boxes = [[10, 10, 50, 50], [60, 60, 90, 90], [600, 600, 640, 640], [500, 500, 540, 540]]
    result = assert_is_pycocotools(ground_truths, {1: found(boxes, [0.9, 0.8, 0.7, 0.6])})
    assert result["map"] == pytest.approx(0.5, abs=1e-12)


def test_equal_scores_keep_the_order_of_the_image_ids() -> None:
    # Image 3 is wrong, image 7 right, at one score. COCO takes 3 first, in whatever order they come: precision 1/2.
    ground_truths = [ground_truth(7, [BOX]), ground_truth(3, [])]
    detections = {7: found([BOX], [0.5]), 3: found([BOX], [0.5])}
    for order in (ground_truths, ground_truths[::-1]):
        assert coco_average_precision(order, detections, 1).summary["map"] == pytest.approx(0.5, abs=1e-12)


def test_classes_without_ground_truth_are_nan_and_outside_the_mean() -> None:
    ground_truths = [ground_truth(1, [BOX, ELSEWHERE], [0, 1])]
    result = coco_average_precision(ground_truths, {1: found([BOX, BOX], [0.9, 0.8], [0, 2])}, 4)
    np.testing.assert_allclose(result.ap, [1.0, 0.0, math.nan, math.nan])
    assert result.summary["map"] == pytest.approx(0.5, abs=1e-12)


def test_without_ground_truth_everything_is_nan_and_without_detections_zero() -> None:
    detections = {1: found([BOX], [0.5])}
    empty, crowd = [ground_truth(1, [])], [ground_truth(1, [BOX], ignore=[True])]
    for scene in (([], {}), (empty, {}), (empty, detections), (crowd, detections), (crowd, {})):
        result = coco_average_precision(*scene, 2)
        assert np.isnan([*result.summary.values(), *result.ap]).all()
    for detections in ({}, {1: found([], [])}):
        result = coco_average_precision([ground_truth(1, [BOX])], detections, 2)
        assert result.summary["map"] == result.summary["map_50_medium"] == result.summary["mar_1"] == 0
        np.testing.assert_array_equal(result.ap, [0, math.nan])


def test_nothing_is_printed_logged_or_warned_of(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coco_average_precision([ground_truth(1, [BOX])], {1: found([BOX] * 150, [0.5] * 150)}, 1)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
