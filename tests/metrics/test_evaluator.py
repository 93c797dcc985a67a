"""The evaluator: what it refuses, what it leaves out, and that several ranks agree with one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from anchor_lightning.metrics import DetectionEvaluator, coco_average_precision, voc_average_precision
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.metric_processes import SHARDS, on_two_ranks
from tests.helpers.metric_scenes import found, ground_truth, nothing, random_scene

BOX = [10.0, 10.0, 50.0, 50.0]
NAMES = ["cat", "dog", "cow"]
SUMMARY_KEYS = [
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
    *("map_50_small", "map_50_medium", "map_50_large", "map_voc07", "map_voc"),
]


def scene() -> tuple[list[GroundTruth], dict[int, Detections]]:
    ground_truths, detections = random_scene(11, num_images=9, num_classes=3)
    return ground_truths, {record.image_id: detections.get(record.image_id, nothing()) for record in ground_truths}


def evaluate(image_ids: Sequence[int]) -> dict[str, float]:
    ground_truths, detections = scene()
    evaluator = DetectionEvaluator(ground_truths, NAMES)
    for image_id in image_ids:
        evaluator.update([image_id], [detections[image_id]])
    return evaluator.compute(per_class=True)


def assert_same(result: dict[str, float], expected: dict[str, float]) -> None:
    """To the last digit, NaN for NaN, keys in order."""
    assert json.dumps(result) == json.dumps(expected)


def test_perfect_detections_score_one() -> None:
    ground_truths = [
        ground_truth(1, [BOX, [100, 100, 300, 300]], [0, 1]),
        ground_truth(2, [[5, 5, 15, 15]], [0]),
        ground_truth(3, [], []),
    ]
    evaluator = DetectionEvaluator(ground_truths, ["cat", "dog"])
    for record in ground_truths:
        boxes, labels = record.boxes_xyxy.tolist(), record.labels.tolist()
        evaluator.update([record.image_id], [found(boxes, [0.9] * len(labels), labels)])
    result = evaluator.compute(per_class=True)
    assert list(result) == [*SUMMARY_KEYS, "ap/cat", "ap/dog"] + [
        f"{kind}/{name}" for kind in ("ap_voc07", "ap_voc") for name in ("cat", "dog")
    ]
    assert all(value == pytest.approx(1, abs=1e-12) for key, value in result.items())


def test_one_wrong_class_by_hand() -> None:
    # Image 1 holds a cat, image 2 a dog that is called a cat with the higher score. Cats: wrong, right, so precision
    # 1/2 at recall 1, at every level: 1/2. Dogs: 0. Cows have no ground truth. Mean 1/4, whatever the protocol.
    evaluator = DetectionEvaluator([ground_truth(1, [BOX], [0]), ground_truth(2, [BOX], [1])], NAMES)
    evaluator.update(torch.tensor([1, 2]), [found([BOX], [0.6], [0]), found([BOX], [0.9], [0])])
    result = evaluator.compute(per_class=True)
    for key in ("map", "map_50", "map_75", "map_medium", "map_50_medium", "map_voc07", "map_voc"):
        assert result[key] == pytest.approx(0.25, abs=1e-12), key
    for kind in ("ap", "ap_voc07", "ap_voc"):
        assert result[f"{kind}/cat"] == pytest.approx(0.5, abs=1e-12)
        assert result[f"{kind}/dog"] == 0
        assert math.isnan(result[f"{kind}/cow"])
    assert math.isnan(result["map_small"]) and math.isnan(result["map_50_large"])


def test_numbers_are_those_of_the_two_protocols() -> None:
    ground_truths, detections = scene()
    coco, voc = (
        coco_average_precision(ground_truths, detections, 3),
        voc_average_precision(ground_truths, detections, 3),
    )
    expected = {**coco.summary, "map_voc07": voc.mean_11_point, "map_voc": voc.mean_area}
    for kind, values in (("ap", coco.ap), ("ap_voc07", voc.ap_11_point), ("ap_voc", voc.ap_area)):
        expected |= {f"{kind}/{name}": float(value) for name, value in zip(NAMES, values, strict=True)}
    assert_same(evaluate(range(1, 10)), expected)
    assert 0 < expected["map"] < 1


def test_per_class_keys_only_when_asked() -> None:
    evaluator = DetectionEvaluator([ground_truth(1, [BOX], [0])], NAMES)
    evaluator.update([1], [found([BOX], [0.5], [0])])
    assert list(evaluator.compute()) == SUMMARY_KEYS


def test_images_never_updated_are_left_out_and_images_without_detections_count() -> None:
    evaluator = DetectionEvaluator([ground_truth(i, [BOX], [0]) for i in (1, 2, 3)], ["cat"])
    evaluator.update([1], [found([BOX], [0.5], [0])])
    assert evaluator.compute()["map_voc"] == 1
    evaluator.update([3], [nothing()])
    assert evaluator.compute()["map_voc"] == pytest.approx(1 / 2)


def test_nothing_updated_is_nan_under_the_same_keys() -> None:
    evaluator = DetectionEvaluator([ground_truth(1, [BOX], [0])], ["cat"])
    assert list(evaluator.compute()) == SUMMARY_KEYS
    assert all(math.isnan(value) for value in evaluator.compute(per_class=True).values())


def test_an_image_counts_once_and_keeps_its_first_detections() -> None:
    evaluator = DetectionEvaluator([ground_truth(1, [BOX], [0])], ["cat"])
    evaluator.update([1, 1], [found([BOX], [0.5], [0]), nothing()])
    evaluator.update([1], [nothing()])
    assert evaluator.compute()["map_voc"] == 1
    assert evaluator.compute()["map"] == pytest.approx(1, abs=1e-12)


def test_reset_forgets() -> None:
    evaluator = DetectionEvaluator([ground_truth(1, [BOX], [0])], ["cat"])
    evaluator.update([1], [nothing()])
    assert evaluator.compute()["map_voc"] == 0
    evaluator.reset()
    assert math.isnan(evaluator.compute()["map_voc"])


def test_detections_are_copied() -> None:
    evaluator = DetectionEvaluator([ground_truth(1, [BOX], [0])], ["cat"])
    here = found([BOX], [0.5], [0])
    evaluator.update([1], [here])
    here.boxes_xyxy.fill_(math.nan)
    assert evaluator.compute()["map_voc"] == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["boxes_xyxy", "scores"])
def test_detections_that_are_not_finite_are_rejected_by_image(field: str, bad: float) -> None:
    evaluator = DetectionEvaluator([ground_truth(i, [BOX], [0]) for i in (41, 42)], ["cat"])
    broken = found([BOX, BOX], [0.5, 0.4], [0, 0])
    getattr(broken, field)[1] = bad
    with pytest.raises(ValueError, match=rf"image 42: {field}"):
        evaluator.update([41, 42], [found([BOX], [0.5], [0]), broken])
    assert math.isnan(evaluator.compute()["map"]), "a refused batch leaves nothing behind"


def test_bad_updates_are_refused() -> None:
    evaluator = DetectionEvaluator([ground_truth(1, [BOX], [0])], ["cat", "dog"])
    with pytest.raises(ValueError, match=r"unknown image ids \[7, 9\]"):
        evaluator.update([1, 9, 7], [nothing()] * 3)
    with pytest.raises(ValueError, match="2 image ids, but the detections of 1"):
        evaluator.update([1, 1], [nothing()])
    for label in (-1, 2):
        with pytest.raises(ValueError, match=r"image 1: a label lies outside \[0, 2\)"):
            evaluator.update([1], [found([BOX], [0.5], [label])])
    with pytest.raises(ValueError, match="image 1: 2 labels"):
        evaluator.update([1], [found([BOX], [0.5], [0, 1])])


@pytest.mark.parametrize(
    ("ground truth boxes", "message"),
    [
        ([ground_truth(0, [BOX], [0])], "id 0: ids must start at 1"),
        ([ground_truth(3, [BOX], [0]), ground_truth(3, [], [])], "id 3 occurs twice"),
        ([ground_truth(3, [BOX], [2])], r"image 3: a label lies outside \[0, 2\)"),
        ([ground_truth(3, [BOX], [-1])], r"image 3: a label lies outside \[0, 2\)"),
        ([ground_truth(3, [BOX], [0, 1], [False])], "image 3: 2 labels"),
        ([ground_truth(3, [[0, 0, math.nan, 5]], [0])], "image 3: boxes_xyxy or area"),
    ],
)
def test_bad_truths_are_refused(ground_truths: list[GroundTruth], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionEvaluator(ground_truths, ["cat", "dog"])
    for metric in (voc_average_precision, coco_average_precision):
        with pytest.raises(ValueError, match=message):
            metric(ground_truths, {}, 2)


@pytest.mark.parametrize("names", [[], ["cat", "cat"]])
def test_class_names_must_be_unique_and_present(names: list[str]) -> None:
    with pytest.raises(ValueError, match="class_names"):
        DetectionEvaluator([], names)


def test_an_unknown_backend_is_refused_before_anything_is_evaluated() -> None:
    with pytest.raises(ValueError, match="'cocoapi'; choose faster_coco_eval or pycocotools"):
        DetectionEvaluator([], ["cat"], backend="cocoapi")  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", [voc_average_precision, coco_average_precision])
def test_the_plain_functions_refuse_the_same_detections(metric: object) -> None:
    with pytest.raises(ValueError, match="unknown image ids"):
        metric([ground_truth(1, [BOX], [0])], {2: nothing()}, 1)  # type: ignore[operator]
    with pytest.raises(ValueError, match="image 1: scores"):
        metric([ground_truth(1, [BOX], [0])], {1: found([BOX], [math.nan], [0])}, 1)  # type: ignore[operator]


def _rank(rank: int) -> dict[str, Any]:
    """One of two processes: every case of SHARDS, then a computation that fails on rank 0."""
    results: dict[str, Any] = {name: evaluate(shards[rank]) for name, shards in SHARDS.items()}
    evaluator = DetectionEvaluator([ground_truth(1, [BOX], [0])], ["cat"])
    evaluator.ground_truths = [ground_truth(1, [BOX], [5])]  # broken behind its back, so that computing fails
    evaluator.update([1], [nothing()])
    try:
        evaluator.compute()
    except RuntimeError as error:
        results["failure"] = str(error)
    return results


def test_two_ranks_equal_one_to_the_digit(tmp_path: Path) -> None:
    ranks = on_two_ranks(_rank, tmp_path)
    for results in ranks:
        failure = results.pop("failure")
        assert failure.startswith("the evaluation failed on rank 0: ValueError: ")
        for name, shards in SHARDS.items():
            expected = evaluate(sorted({*shards[0], *shards[1]}))
            assert_same(results[name], json.loads(json.dumps(expected)))
    assert ranks[0]["uneven"]["map"] > 0
