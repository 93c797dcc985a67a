"""VOC average precision by hand, against the development kit transcribed, and against an independent package.

The package is `mean-average-precision` (MIT licence). It matches greedily with inclusive widths, as the development kit
does. Where it departs from the kit we follow the kit, and the comparison works round it:

- It asks for an overlap above the threshold; the kit counts one on it. It is given the next double below.
- It counts difficult boxes among those to be found; the kit does not. Its recall is turned back into the number found.
- It mixes up which box is difficult where an image has both kinds of one class: here all of a class are, or none is.
- Ties in score or overlap come in any order: it is given distinct scores in our order, and boxes that are never alike.
- The recall levels are the caller's, here MATLAB's; with its manual's a recall of exactly 6/10 would miss its level.
- A class without ground truth gets 0, and the result is float32. Classes with ground truth are compared, in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mean_average_precision import MetricBuilder
from mean_average_precision.utils import compute_average_precision, compute_average_precision_with_recall_thresholds

from anchor_lightning.errors import UserError
from anchor_lightning.metrics import VOCMeanAveragePrecision
from anchor_lightning.metrics.voc import voc_average_precision
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.metric_scenes import BOX, ELSEWHERE, Scene, found, ground_truth, random_scene

MATLAB_COLON = np.array([i * 0.1 for i in range(5)] + [0.5] + [1 - i * 0.1 for i in range(4, -1, -1)])  # 0:0.1:1
TO_INCLUSIVE = np.array([1, 1, 0, 0])


def devkit(
    ground_truths: list[GroundTruth], detections: dict[int, Detections], label: int, threshold: float
) -> tuple[float, float]:
    """VOCevaldet.m and VOCap.m for one class, one detection and one ground truth at a time."""
    objects: dict[int, list[dict[str, Any]]] = {}
    lines: list[tuple[float, int, np.ndarray]] = []
    for record in ground_truths:
        boxes = zip(record.boxes_xyxy + TO_INCLUSIVE, record.ignore, record.labels, strict=True)
        objects[record.image_id] = [
            {"bb": bb, "difficult": difficult, "detected": False} for bb, difficult, of in boxes if of == label
        ]
        if (here := detections.get(record.image_id)) is not None:
            rows = zip(here.scores.tolist(), here.boxes_xyxy.double().numpy() + TO_INCLUSIVE, here.labels, strict=True)
            lines += [(score, record.image_id, bb) for score, bb, of in rows if of == label]
    lines.sort(key=lambda line: -line[0])
    npos = sum(not candidate["difficult"] for of_image in objects.values() for candidate in of_image)
    if npos == 0:
        return math.nan, math.nan
    tp, fp = np.zeros(len(lines)), np.zeros(len(lines))
    for d, (_, image_id, bb) in enumerate(lines):
        ovmax, best = -math.inf, None
        for candidate in objects[image_id]:
            gt = candidate["bb"]
            iw = min(bb[2], gt[2]) - max(bb[0], gt[0]) + 1
            ih = min(bb[3], gt[3]) - max(bb[1], gt[1]) + 1
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1) + (gt[2] - gt[0] + 1) * (gt[3] - gt[1] + 1) - iw * ih
                if iw * ih / ua > ovmax:
                    ovmax, best = iw * ih / ua, candidate
        if ovmax < threshold:
            fp[d] = 1
        elif not best["difficult"]:
            (fp if best["detected"] else tp)[d] = 1
            best["detected"] = True
    fp, tp = np.cumsum(fp), np.cumsum(tp)
    rec, prec = tp / npos, tp / np.maximum(fp + tp, 1)
    eleven = sum(max(prec[rec >= t], default=0.0) / 11 for t in MATLAB_COLON)
    mrec, mpre = [0.0, *rec, 1.0], [0.0, *prec, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return eleven, sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)))


def published(
    ground_truths: list[GroundTruth], detections: dict[int, Detections], num_classes: int, threshold: float
) -> np.ndarray:
    """11-point and area average precision of each class, NaN without ground truth, by the package."""
    in_order = [detections.get(record.image_id, found([], [])) for record in ground_truths]
    scores = torch.cat([here.scores for here in in_order])
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[scores.argsort(descending=True, stable=True)] = torch.arange(len(scores), 0, -1, dtype=torch.float64)
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=num_classes)
    for record, here, rank in zip(ground_truths, in_order, ranks.split([len(d.scores) for d in in_order]), strict=True):
        annotated = [record.boxes_xyxy + TO_INCLUSIVE, record.labels, record.ignore, np.zeros(len(record.labels))]
        boxes = here.boxes_xyxy.double().numpy() + TO_INCLUSIVE
        metric.add(np.column_stack([boxes, here.labels, rank]), np.column_stack(annotated))
    above = float(np.nextafter(threshold, 0))
    by_class = metric.value(iou_thresholds=above, recall_thresholds=MATLAB_COLON, mpolicy="greedy")[above]
    labels, ignore = (np.concatenate([getattr(t, name) for t in ground_truths]) for name in ("labels", "ignore"))
    result = np.full((num_classes, 2), np.nan)
    for label in np.unique(labels[~ignore]):
        counted, given = (~ignore[labels == label]).sum(), (labels == label).sum()
        precision = by_class[label]["precision"]
        recall = np.rint(by_class[label]["recall"] * given) / counted
        eleven = compute_average_precision_with_recall_thresholds(precision, recall, MATLAB_COLON)
        if counted == given:
            assert float(by_class[label]["ap"]) == pytest.approx(eleven, abs=1e-6)
        result[label] = eleven, compute_average_precision(precision, recall)
    return result


def assert_is_devkit(scene: Scene, num_classes: int, threshold: float = 0.5) -> np.ndarray:
    """(C, 2) 11-point and area average precision."""
    result = np.stack(voc_average_precision(*scene, num_classes, threshold), axis=1)
    expected = [devkit(*scene, label, threshold) for label in range(num_classes)]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)
    return result


def assert_is_published(scene: Scene, num_classes: int, threshold: float = 0.5) -> None:
    """On a scene that is made as the package can read it, see above."""
    rng = np.random.default_rng(0)
    for record in scene[0]:
        # No two ground truth boxes overlap a detection alike, as they differ in position and size.
        record.boxes_xyxy[:] += rng.uniform(-0.2, 0.2, record.boxes_xyxy.shape)
        record.ignore[:] = (rng.random(num_classes) < 0.3)[record.labels]
    result = np.stack(voc_average_precision(*scene, num_classes, threshold), axis=1)
    np.testing.assert_allclose(result, published(*scene, num_classes, threshold), rtol=0, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_images=st.integers(1, 6),
    num_classes=st.integers(1, 4),
    scale=st.sampled_from([2, 5, 10]),
    threshold=st.sampled_from([0.3, 0.5, 0.75, 1.0]),
)
def test_equals_the_development_kit_and_the_package_on_random_scenes(
    seed: int, num_images: int, num_classes: int, scale: int, threshold: float
) -> None:
    scene = random_scene(seed, num_images, num_classes, scale)
    assert_is_devkit(scene, num_classes, threshold)
    assert_is_published(scene, num_classes, threshold)


def test_equals_the_development_kit_and_the_package_on_crowded_scenes() -> None:
    scene = random_scene(0, num_images=20, num_classes=2, max_boxes=15, max_found=60)
    assert not np.isnan(assert_is_devkit(scene, 2)).any()
    assert_is_published(scene, 2)


TEN, ONE_PIXEL = [ground_truth(i, [BOX]) for i in range(10)], [5.0, 5.0, 6.0, 6.0]
ROW = [ground_truth(1, [[0, 0, 10, 1]])]
# Images 7 and 3 in this order; the second is of another class.
TWO_CLASSES = [ground_truth(7, [BOX]), ground_truth(3, [BOX], [1])]
# Ground truth, detections; 11-point and area average precision of class 0.
BY_HAND: dict[str, tuple[list[GroundTruth], dict[int, Detections], float, float]] = {
    # Four ground truth boxes in four images. In order of score: right, wrong, right, wrong, right; the fourth ground
    # truth is never found. precision 1, 1/2, 2/3, 2/4, 3/5 at recall 1/4, 1/4, 2/4, 2/4, 3/4; monotone: 1, 2/3, 2/3,
    # 3/5, 3/5. area: 1/4 * (1 + 2/3 + 3/5). 11 points: levels 0, .1, .2 -> 1; .3, .4, .5 -> 2/3; .6, .7 -> 3/5; .8, .9,
    # 1 -> 0.
    "three of four": (
        TEN[:4],
        {0: found([BOX, ELSEWHERE], [0.9, 0.8]), 1: found([BOX, ELSEWHERE], [0.7, 0.6]), 2: found([BOX], [0.5])},
        (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11,
        (1 + 2 / 3 + 3 / 5) / 4,
    ),
    # Two ground truth boxes. Right, duplicate, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    # area: 1/2 * 1 + 1/2 * 2/3 = 5/6. 11 points: levels 0 to .5 -> 1, .6 to 1 -> 2/3: (6 + 5 * 2/3) / 11.
    "a second detection of a ground truth is wrong": (
        [ground_truth(1, [BOX, ELSEWHERE])],
        {1: found([BOX, BOX, ELSEWHERE], [0.9, 0.8, 0.7])},
        (6 + 10 / 3) / 11,
        5 / 6,
    ),
    # Both detections overlap the first ground truth most; the second ground truth (IoU 0.6 with them) stays unfound:
    # recall 1/2.
    "a duplicate is not handed on to the second best": (
        [ground_truth(1, [[0, 0, 40, 40], [0, 10, 40, 50]])],
        {1: found([[0, 0, 40, 40]] * 2, [0.9, 0.8])},
        6 / 11,
        0.5,
    ),
    # The first detection has IoU 0.6 with both ground truth boxes and takes the first; so does the second, in vain.
    "of two overlapped alike the first is taken": (
        [ground_truth(1, [[0, 0, 40, 40], [0, 20, 40, 60]])],
        {1: found([[0, 10, 40, 50], [0, 0, 40, 40]], [0.9, 0.8])},
        6 / 11,
        0.5,
    ),
    # The best detection meets the difficult ground truth, twice: as if it were not there. The one real ground truth:
    # precision 1.
    "difficult ones neither count as missed nor make a detection wrong": (
        [ground_truth(1, [BOX, ELSEWHERE], ignore=[True, False])],
        {1: found([BOX, BOX, ELSEWHERE], [0.9, 0.8, 0.7])},
        1,
        1,
    ),
    "only difficult hits": ([ground_truth(1, [BOX, ELSEWHERE], ignore=[True, False])], {1: found([BOX], [0.9])}, 0, 0),
    "only difficult boxes": ([ground_truth(1, [BOX], ignore=[True])], {1: found([BOX], [1])}, math.nan, math.nan),
    # Wrong before right at one score: precision at recall 1 is 1/2. Right before wrong: 1.
    "ties within an image": (TWO_CLASSES, {7: found([ELSEWHERE, BOX], [0.5, 0.5])}, 0.5, 0.5),
    "ties across images": (TWO_CLASSES, {3: found([BOX], [0.5]), 7: found([BOX], [0.5])}, 1, 1),
    "ties the other way": (TWO_CLASSES[::-1], {3: found([BOX], [0.5]), 7: found([BOX], [0.5])}, 0.5, 0.5),
    # Widths count pixels inclusively. A 1-pixel box is its own perfect match. Pixels 1..10 against pixels 1..5, one row
    # high: 5 / 10, the threshold itself. Against pixels 1..4: 4 / 10.
    "one pixel": ([ground_truth(1, [ONE_PIXEL])], {1: found([ONE_PIXEL], [1])}, 1, 1),
    "on the threshold": (ROW, {1: found([[0, 0, 5, 1]], [1])}, 1, 1),
    "below the threshold": (ROW, {1: found([[0, 0, 4, 1]], [1])}, 0, 0),
    # Ten ground truth boxes, three found, nothing wrong. 0:0.1:1 holds 0.30000000000000004: three levels of eleven, not
    # four. Six found: 0:0.1:1 holds 1 - 4 * 0.1 = 0.6 exactly: seven levels.
    "three of ten": (TEN, {i: found([BOX], [0.5]) for i in range(3)}, 3 / 11, 0.3),
    "six of ten": (TEN, {i: found([BOX], [0.5]) for i in range(6)}, 7 / 11, 0.6),
    "nothing at all": ([], {}, math.nan, math.nan),
    "no ground truth": ([ground_truth(1, [])], {1: found([BOX], [1])}, math.nan, math.nan),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_average_precision_by_hand(name: str) -> None:
    *scene, eleven, area = BY_HAND[name]
    assert assert_is_devkit(scene, 2)[0] == pytest.approx([eleven, area], abs=1e-12, nan_ok=True)


def test_means_leave_out_classes_without_ground_truth() -> None:
    # Class 0 perfect, class 1 has ground truth and no detections (0), class 2 has detections and no ground truth (NaN).
    scene = [ground_truth(1, [BOX, ELSEWHERE], [0, 1])], {1: found([BOX, BOX], [0.9, 0.8], [0, 2])}
    np.testing.assert_array_equal(voc_average_precision(*scene, 3).ap_area, [1.0, 0.0, math.nan])
    means = VOCMeanAveragePrecision(3).average_precision(*scene)
    assert means == pytest.approx({"map_voc": 0.5, "map_voc07": 0.5}, abs=1e-12)


def test_the_threshold_of_a_metric_is_its_own() -> None:
    for threshold, expected in ((0.4, 1), (0.41, 0)):
        metric = VOCMeanAveragePrecision(1, iou_threshold=threshold)
        assert metric.average_precision(ROW, {1: found([[0, 0, 4, 1]], [1])})["map_voc"] == expected


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.1, math.nan])
def test_a_threshold_out_of_range_is_rejected(threshold: float) -> None:
    with pytest.raises(UserError, match="iou_threshold"):
        VOCMeanAveragePrecision(1, iou_threshold=threshold)
