"""VOC average precision against a plain transcription of the development kit, and against values worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_lightning.errors import UserError
from anchor_lightning.metrics import VOCMeanAveragePrecision
from anchor_lightning.metrics.voc import VOCResult, voc_average_precision
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.metric_scenes import found, ground_truth, nothing, random_scene

BOX = [10.0, 10.0, 50.0, 50.0]
ELSEWHERE = [100.0, 100.0, 140.0, 140.0]


def devkit(
    ground_truths: list[GroundTruth], detections: dict[int, Detections], label: int, threshold: float
) -> tuple[float, float]:
    """VOCevaldet.m and VOCap.m for one class, one detection and one ground truth at a time."""
    objects: dict[int, list[dict[str, Any]]] = {record.image_id: [] for record in ground_truths}
    npos = 0
    lines = []
    for record in ground_truths:
        of_class = record.labels == label
        for (x1, y1, x2, y2), difficult in zip(record.boxes_xyxy[of_class], record.ignore[of_class], strict=True):
            box = {"bb": (x1 + 1, y1 + 1, x2, y2), "difficult": difficult, "detected": False}
            objects[record.image_id].append(box)
            npos += not difficult
        here = detections.get(record.image_id, nothing())
        for (x1, y1, x2, y2), score, of in zip(here.boxes_xyxy.tolist(), here.scores, here.labels, strict=True):
            if of == label:
                lines.append((float(score), record.image_id, (x1 + 1, y1 + 1, x2, y2)))
    lines.sort(key=lambda line: -line[0])
    if npos == 0:
        return math.nan, math.nan
    tp, fp = [], []
    for _, image_id, bb in lines:
        ovmax, best = -math.inf, None
        for candidate in objects[image_id]:
            gt = candidate["bb"]
            iw = min(bb[2], gt[2]) - max(bb[0], gt[0]) + 1
            ih = min(bb[3], gt[3]) - max(bb[1], gt[1]) + 1
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1) + (gt[2] - gt[0] + 1) * (gt[3] - gt[1] + 1) - iw * ih
                if iw * ih / ua > ovmax:
                    ovmax, best = iw * ih / ua, candidate
        is_tp = is_fp = 0
        if ovmax >= threshold:
            if not best["difficult"]:
                if not best["detected"]:
                    is_tp, best["detected"] = 1, True
                else:
                    is_fp = 1
        else:
            is_fp = 1
        tp.append(is_tp)
        fp.append(is_fp)
    rec = [sum(tp[: i + 1]) / npos for i in range(len(tp))]
    sums = [(sum(tp[: i + 1]), sum(fp[: i + 1])) for i in range(len(tp))]
    prec = [t / (t + f) if t + f else 0.0 for t, f in sums]

    matlab_colon = [i * 0.1 for i in range(5)] + [0.5] + [1 - i * 0.1 for i in range(4, -1, -1)]
    eleven = sum(max([p for p, r in zip(prec, rec, strict=True) if r >= t], default=0.0) / 11 for t in matlab_colon)
    mrec, mpre = [0.0, *rec, 1.0], [0.0, *prec, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    area = sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1])
    return eleven, area


def assert_is_devkit(
    result: VOCResult, ground_truths: list[GroundTruth], detections: dict[int, Detections], threshold: float = 0.5
) -> None:
    expected = np.array([devkit(ground_truths, detections, c, threshold) for c in range(len(result.ap_area))])
    np.testing.assert_allclose(result.ap_11_point, expected[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.ap_area, expected[:, 1], rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_images=st.integers(0, 6),
    num_classes=st.integers(1, 4),
    scale=st.sampled_from([2, 5, 10]),
    threshold=st.sampled_from([0.3, 0.5, 0.75, 1.0]),
)
def test_equals_the_development_kit_on_random_scenes(
    seed: int, num_images: int, num_classes: int, scale: int, threshold: float
) -> None:
    ground_truths, detections = random_scene(seed, num_images, num_classes, scale)
    result = voc_average_precision(ground_truths, detections, num_classes, threshold)
    assert_is_devkit(result, ground_truths, detections, threshold)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_development_kit_on_crowded_scenes(seed: int) -> None:
    ground_truths, detections = random_scene(seed, num_images=20, num_classes=2, max_boxes=15, max_found=60)
    assert_is_devkit(voc_average_precision(ground_truths, detections, 2), ground_truths, detections)


def test_average_precision_by_hand() -> None:
    # Four ground truth boxes in four images. In order of score: right, wrong, right, wrong, right; the fourth ground
    # truth is never found. precision 1, 1/2, 2/3, 2/4, 3/5 at recall 1/4, 1/4, 2/4, 2/4, 3/4; monotone: 1, 2/3, 2/3,
    # 3/5, 3/5. area: 1/4 * (1 + 2/3 + 3/5). 11 points: levels 0, .1, .2 -> 1; .3, .4, .5 -> 2/3; .6, .7 -> 3/5; .8, .9,
    # 1 -> 0.
    ground_truths = [ground_truth(i, [BOX], [0]) for i in (1, 2, 3, 4)]
    detections = {
        1: found([BOX, ELSEWHERE], [0.9, 0.8], [0, 0]),
        2: found([BOX, ELSEWHERE], [0.7, 0.6], [0, 0]),
        3: found([BOX], [0.5], [0]),
    }
    result = voc_average_precision(ground_truths, detections, 1)
    assert result.ap_area[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 4, abs=1e-12)
    assert result.ap_11_point[0] == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11, abs=1e-12)


def test_a_second_detection_of_a_ground_truth_is_wrong() -> None:
    # Two ground truth boxes. Right, duplicate, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    # area: 1/2 * 1 + 1/2 * 2/3 = 5/6. 11 points: levels 0 to .5 -> 1, .6 to 1 -> 2/3: (6 + 5 * 2/3) / 11.
    ground_truths = [ground_truth(1, [BOX, ELSEWHERE], [0, 0])]
    detections = {1: found([BOX, BOX, ELSEWHERE], [0.9, 0.8, 0.7], [0, 0, 0])}
    result = voc_average_precision(ground_truths, detections, 1)
    assert result.ap_area[0] == pytest.approx(5 / 6, abs=1e-12)
    assert result.ap_11_point[0] == pytest.approx((6 + 10 / 3) / 11, abs=1e-12)


def test_a_duplicate_is_not_handed_on_to_the_second_best_ground_truth() -> None:
    # Both detections overlap the first ground truth most; the second ground truth (IoU 0.6 with them) stays unfound:
    # recall 1/2.
    ground_truths = [ground_truth(1, [[0, 0, 40, 40], [0, 10, 40, 50]], [0, 0])]
    detections = {1: found([[0, 0, 40, 40], [0, 0, 40, 40]], [0.9, 0.8], [0, 0])}
    assert voc_average_precision(ground_truths, detections, 1).ap_area[0] == pytest.approx(0.5, abs=1e-12)


def test_difficult_boxes_neither_count_as_missed_nor_make_a_detection_wrong() -> None:
    # The best detection meets the difficult ground truth, twice: as if it were not there. The one real ground truth:
    # precision 1.
    ground_truths = [ground_truth(1, [BOX, ELSEWHERE], [0, 0], ignore=[True, False])]
    detections = {1: found([BOX, BOX, ELSEWHERE], [0.9, 0.8, 0.7], [0, 0, 0])}
    result = voc_average_precision(ground_truths, detections, 1)
    assert result.ap_area[0] == result.ap_11_point[0] == pytest.approx(1.0, abs=1e-12)


def test_only_difficult_hits_give_zero_and_only_difficult_boxes_give_nan() -> None:
    ground_truths = [ground_truth(1, [BOX, ELSEWHERE, BOX], [0, 0, 1], ignore=[True, False, True])]
    result = voc_average_precision(ground_truths, {1: found([BOX, BOX], [0.9, 0.9], [0, 1])}, 2)
    assert result.ap_area[0] == result.ap_11_point[0] == 0
    assert math.isnan(result.ap_area[1]) and math.isnan(result.ap_11_point[1])


def test_equal_scores_keep_the_order_of_the_truths_and_of_the_image() -> None:
    # Wrong before right at one score: precision at recall 1 is 1/2. Right before wrong: 1.
    ground_truths = [ground_truth(7, [BOX], [0]), ground_truth(3, [BOX], [1])]
    wrong_first = {3: found([], [], []), 7: found([ELSEWHERE, BOX], [0.5, 0.5], [0, 0])}
    assert voc_average_precision(ground_truths, wrong_first, 2).ap_area[0] == pytest.approx(0.5, abs=1e-12)
    across_images = {3: found([BOX], [0.5], [0]), 7: found([BOX], [0.5], [0])}
    assert voc_average_precision(ground_truths, across_images, 2).ap_area[0] == pytest.approx(1.0, abs=1e-12)
    assert voc_average_precision(ground_truths[::-1], across_images, 2).ap_area[0] == pytest.approx(0.5, abs=1e-12)


def test_widths_count_pixels_inclusively() -> None:
    # A 1-pixel box is its own perfect match. Pixels 1..10 against pixels 1..5, one row high: 5 / 10, the threshold
    # itself. Against pixels 1..4: 4 / 10.
    one_pixel = [5.0, 5.0, 6.0, 6.0]
    assert (
        voc_average_precision([ground_truth(1, [one_pixel], [0])], {1: found([one_pixel], [1], [0])}, 1).ap_area[0] == 1
    )
    ten = [ground_truth(1, [[0, 0, 10, 1]], [0])]
    assert voc_average_precision(ten, {1: found([[0, 0, 5, 1]], [1], [0])}, 1).ap_area[0] == 1
    assert voc_average_precision(ten, {1: found([[0, 0, 4, 1]], [1], [0])}, 1).ap_area[0] == 0


def test_a_recall_of_three_tenths_misses_the_fourth_level_as_in_matlab() -> None:
    # Ten ground truth boxes, three found, nothing wrong. 0:0.1:1 holds 0.30000000000000004: three levels of eleven, not
    # four. Six found: 0:0.1:1 holds 1 - 4 * 0.1 = 0.6 exactly: seven levels.
    ground_truths = [ground_truth(i, [BOX], [0]) for i in range(1, 11)]
    three = {i: found([BOX], [0.5], [0]) for i in (1, 2, 3)}
    six = {i: found([BOX], [0.5], [0]) for i in range(1, 7)}
    assert voc_average_precision(ground_truths, three, 1).ap_11_point[0] == pytest.approx(3 / 11, abs=1e-12)
    assert voc_average_precision(ground_truths, six, 1).ap_11_point[0] == pytest.approx(7 / 11, abs=1e-12)


def test_means_leave_out_classes_without_ground_truth() -> None:
    # Class 0 perfect, class 1 has ground truth and no detections (0), class 2 has detections and no ground truth (NaN).
    scene = [ground_truth(1, [BOX, ELSEWHERE], [0, 1])], {1: found([BOX, BOX], [0.9, 0.8], [0, 2])}
    result = voc_average_precision(*scene, 3)
    np.testing.assert_array_equal(result.ap_area, [1.0, 0.0, math.nan])
    means = VOCMeanAveragePrecision(3).average_precision(*scene)
    assert means == pytest.approx({"map_voc": 0.5, "map_voc07": 0.5}, abs=1e-12)


def test_nothing_at_all_is_nan() -> None:
    for ground_truths, detections in (
        ([], {}),
        ([ground_truth(1, [], [])], {}),
        ([ground_truth(1, [], [])], {1: nothing()}),
    ):
        result = voc_average_precision(ground_truths, detections, 2)
        assert np.isnan(result.ap_area).all() and np.isnan(result.ap_11_point).all()


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.1, math.nan])
def test_a_threshold_out_of_range_is_rejected(threshold: float) -> None:
    with pytest.raises(UserError, match="iou_threshold"):
        VOCMeanAveragePrecision(1, iou_threshold=threshold)


def test_detections_in_half_precision_and_with_gradients_are_read() -> None:
    here = found([BOX], [0.5], [0])
    half = Detections(here.boxes_xyxy.bfloat16().requires_grad_(), here.scores.half(), here.labels, here.anchors)
    assert half.boxes_xyxy.dtype == torch.bfloat16
    assert voc_average_precision([ground_truth(1, [BOX], [0])], {1: half}, 1).ap_area[0] == 1
