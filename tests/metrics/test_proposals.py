"""Recall of proposals against pycocotools' class-agnostic evaluation, by hand, and over two ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchor_lightning.errors import UserError
from anchor_lightning.metrics import ProposalRecall
from anchor_lightning.structures import GroundTruth
from tests.helpers.metric_scenes import found, ground_truth, random_scene, torchmetrics_input
from tests.helpers.pycocotools_reference import evaluate_directly

Proposals = tuple[Tensor, Tensor]
BOX = [10.0, 10.0, 50.0, 50.0]
ELSEWHERE = [100.0, 100.0, 140.0, 140.0]
FAR = [300.0, 300.0, 310.0, 310.0]


def proposed(boxes: Sequence[Sequence[float]], scores: Sequence[float]) -> Proposals:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores, dtype=torch.float32)


def scene(seed: int, **options: int) -> tuple[list[GroundTruth], dict[int, Proposals]]:
    """A random scene of `scenes.py` without the detections' classes; images without an entry propose nothing."""
    ground_truths, detections = random_scene(seed, **options)
    proposals = {record.image_id: proposed([], []) for record in ground_truths}
    return ground_truths, proposals | {i: (found.boxes_xyxy, found.scores) for i, found in detections.items()}


def crowded_scene(seed: int, num_images: int, num_proposals: int) -> tuple[list[GroundTruth], dict[int, Proposals]]:
    """Boxes of all sizes; a fifth of the proposals lies near them, at any score, the rest anywhere."""
    rng = np.random.default_rng(seed)
    ground_truths, proposals = [], {}
    for image_id in range(1, num_images + 1):
        count = int(rng.poisson(7)) + 1
        left_top, wh = rng.uniform(0, 400, (count, 2)), np.exp(rng.normal(4, 0.9, (count, 2)))
        boxes = np.concatenate([left_top, left_top + wh], 1)
        ground_truths.append(
            ground_truth(image_id, boxes.tolist(), rng.integers(0, 80, count).tolist(), rng.random(count) < 0.1)
        )
        found = np.concatenate(
            [rng.uniform(0, 500, (num_proposals, 2)), np.exp(rng.normal(4, 1, (num_proposals, 2)))], 1
        )
        found[:, 2:] += found[:, :2]
        near = rng.integers(0, count, num_proposals // 5)
        found[: len(near)] = boxes[near] + rng.normal(0, 0.1, (len(near), 4)) * np.tile(wh[near], (1, 2))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
        proposals[image_id] = proposed(found.tolist(), rng.normal(0, 3, num_proposals).tolist())
    return ground_truths, proposals


def arguments(
    ground_truths: Sequence[GroundTruth], proposals: Mapping[int, Proposals]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`preds` and `target` of the images that have an entry."""
    records = [record for record in ground_truths if record.image_id in proposals]
    _, target = torchmetrics_input(records, {})
    pairs = [proposals[record.image_id] for record in records]
    return [{"boxes": boxes, "scores": scores} for boxes, scores in pairs], target


def numbers(metric: ProposalRecall) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def recall(
    ground_truths: Sequence[GroundTruth], proposals: Mapping[int, Proposals], top: Sequence[int] = (50, 100, 300, 1000)
) -> dict[str, float]:
    metric = ProposalRecall(top)
    metric.update(*arguments(ground_truths, proposals))
    return numbers(metric)


def pycocotools_recall(
    ground_truths: Sequence[GroundTruth], proposals: Mapping[int, Proposals], top: Sequence[int]
) -> dict[str, float]:
    """COCO's own evaluation of all images at once, with every ground truth in its class and classes off."""
    num_classes = 1 + max((int(label) for record in ground_truths for label in record.labels), default=0)
    detections = {
        i: found(boxes.tolist(), scores.tolist(), [0] * len(scores)) for i, (boxes, scores) in proposals.items()
    }
    evaluation = evaluate_directly(ground_truths, detections, num_classes, proposal_limits=top)
    of_all_sizes = evaluation.eval["recall"][:, 0, 0]  # thresholds, limits
    if (of_all_sizes == -1).all():
        of_all_sizes = np.full_like(of_all_sizes, np.nan)
    expected = {f"ar_{limit}": float(of_all_sizes[:, i].mean()) for i, limit in enumerate(top)}
    return expected | {f"recall_iou50_{limit}": float(of_all_sizes[0, i]) for i, limit in enumerate(top)}


def assert_is_pycocotools(
    ground_truths: Sequence[GroundTruth], proposals: Mapping[int, Proposals], top: Sequence[int] = (50, 100, 300, 1000)
) -> dict[str, float]:
    result, expected = recall(ground_truths, proposals, top), pycocotools_recall(ground_truths, proposals, top)
    assert list(result) == list(expected)
    assert result == pytest.approx(expected, abs=1e-6, nan_ok=True)
    return result


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_images=st.integers(1, 6),
    num_classes=st.integers(1, 4),
    scale=st.sampled_from([5, 10, 20, 40]),
    backwards=st.booleans(),
)
def test_equals_pycocotools_on_random_scenes_with_crowds_and_ties(
    seed: int, num_images: int, num_classes: int, scale: int, backwards: bool
) -> None:
    ground_truths, proposals = scene(seed, num_images=num_images, num_classes=num_classes, scale=scale)
    assert_is_pycocotools(ground_truths[::-1] if backwards else ground_truths, proposals, top=(1, 2, 5, 10))


def test_equals_pycocotools_on_a_thousand_proposals_an_image() -> None:
    result = assert_is_pycocotools(*crowded_scene(0, num_images=3, num_proposals=1200))
    recalls = [result[f"ar_{limit}"] for limit in (50, 100, 300, 1000)]
    assert recalls == sorted(set(recalls)), "each limit should matter in this scene"


def test_equals_pycocotools_with_hundreds_of_ties() -> None:
    assert_is_pycocotools(*scene(1, num_images=4, scale=30, max_boxes=30, max_found=700))


def test_an_overlap_on_a_threshold_reaches_it() -> None:
    # IoU 60 / 100 = 0.6 reaches 0.5, 0.55 and 0.6: three of ten thresholds.
    result = recall([ground_truth(1, [[0, 0, 10, 10]], [0])], {1: proposed([[0, 0, 6, 10]], [0.5])}, top=[50])
    assert result == pytest.approx({"ar_50": 0.3, "recall_iou50_50": 1.0}, abs=1e-6)


def test_only_the_best_proposals_of_each_image_count_by_hand() -> None:
    # By score: elsewhere, nothing, the box. One of three ground truth boxes is found by the best one, and by two; two
    # by three.
    ground_truths = [ground_truth(1, [BOX, ELSEWHERE], [0, 0]), ground_truth(2, [FAR], [0])]
    proposals = {1: proposed([BOX, ELSEWHERE, FAR], [0.1, 0.9, 0.5]), 2: proposed([], [])}
    result = recall(ground_truths, proposals, top=[3, 1, 2])
    assert list(result) == ["ar_1", "ar_2", "ar_3", "recall_iou50_1", "recall_iou50_2", "recall_iou50_3"]
    assert list(result.values()) == pytest.approx([1 / 3, 1 / 3, 2 / 3] * 2, abs=1e-6)


def test_a_ground_truth_is_found_once_and_a_second_proposal_goes_to_the_next_best() -> None:
    # Both proposals overlap the first ground truth most (IoU 1). The second has 0.6 with the other ground truth: 3 of
    # 10 thresholds.
    ground_truths = [ground_truth(1, [[0, 0, 40, 40], [0, 10, 40, 50]], [0, 1])]
    result = recall(ground_truths, {1: proposed([[0, 0, 40, 40]] * 2, [0.9, 0.8])}, top=[1, 2])
    expected = {"ar_1": 0.5, "ar_2": (1 + 0.3) / 2, "recall_iou50_1": 0.5, "recall_iou50_2": 1.0}
    assert result == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("labels", "expected"), [([0, 1], (3 * 2 + 7) / 20), ([1, 0], 10 / 20)])
def test_of_ground_truth_boxes_overlapped_alike_the_last_class_is_taken(labels: list[int], expected: float) -> None:
    # The best proposal has IoU 0.6 with both ground truth boxes, the second is the first ground truth: found only where
    # that is left free.
    ground_truths = [ground_truth(1, [[0, 0, 40, 40], [0, 20, 40, 60]], labels)]
    proposals = {1: proposed([[0, 10, 40, 50], [0, 0, 40, 40]], [0.9, 0.8])}
    assert assert_is_pycocotools(ground_truths, proposals)["ar_50"] == pytest.approx(expected, abs=1e-6)


def test_classes_and_sizes_do_not_matter() -> None:
    huge = [0.0, 0.0, 2e5, 2e5]  # beyond COCO's 1e5^2
    ground_truths = [ground_truth(1, [BOX, ELSEWHERE, huge], [5, 79, 0])]
    assert recall(ground_truths, {1: proposed([BOX, huge], [0.5, 0.4])}, top=[50])["ar_50"] == pytest.approx(
        2 / 3, abs=1e-6
    )


def test_crowds_need_not_be_found_and_take_no_proposal_away() -> None:
    ground_truths = [
        ground_truth(1, [BOX, ELSEWHERE, BOX], [0, 0, 1], ignore=[True, False, False]),
        ground_truth(2, [BOX], [0], [True]),
    ]
    proposals = {1: proposed([BOX], [0.9]), 2: proposed([], [])}
    assert assert_is_pycocotools(ground_truths, proposals)["ar_50"] == pytest.approx(0.5, abs=1e-6)


def test_equal_scores_keep_their_order() -> None:
    for boxes, expected in (([BOX, FAR], 1.0), ([FAR, BOX], 0.0)):
        assert recall([ground_truth(1, [BOX], [0])], {1: proposed(boxes, [0.5, 0.5])}, top=[1])["ar_1"] == expected


def test_without_ground_truth_recall_is_nan_and_without_proposals_zero() -> None:
    for ground_truths in ([], [ground_truth(1, [], [])], [ground_truth(1, [BOX], [0], ignore=[True])]):
        result = recall(ground_truths, {record.image_id: proposed([BOX], [0.5]) for record in ground_truths})
        assert len(result) == 8 and all(math.isnan(value) for value in result.values())
    assert set(recall([ground_truth(1, [BOX], [0])], {1: proposed([], [])}).values()) == {0.0}


def test_an_image_counts_once_with_its_first_proposals_and_reset_forgets() -> None:
    metric = ProposalRecall([50])
    one, other = ([ground_truth(i, [BOX], [0])] for i in (1, 3))
    metric.update(*arguments(one, {1: proposed([BOX], [0.5])}))
    metric.update(*arguments(one, {1: proposed([], [])}))
    assert numbers(metric)["ar_50"] == 1
    metric.update(*arguments(other, {3: proposed([], [])}))
    assert numbers(metric)["ar_50"] == 0.5
    metric.reset()
    metric.update(*arguments(other, {3: proposed([], [])}))
    assert numbers(metric)["ar_50"] == 0


def test_proposals_in_half_precision_and_with_gradients_are_read() -> None:
    boxes, scores = proposed([BOX, FAR], [0.25, 0.5])
    half = (boxes.bfloat16().requires_grad_(), scores.half())
    assert recall([ground_truth(1, [BOX], [0])], {1: half}, top=[1, 2])["ar_2"] == 1


@pytest.mark.parametrize("field", ["boxes", "scores"])
def test_a_batch_with_proposals_that_are_not_finite_is_rejected(field: str) -> None:
    metric = ProposalRecall([50])
    records = [ground_truth(i, [BOX], [0]) for i in (41, 42)]
    preds, target = arguments(records, {41: proposed([BOX], [0.5]), 42: proposed([BOX, BOX], [0.5, 0.4])})
    preds[1][field][1] = math.nan
    with pytest.raises(UserError, match=rf"image 42: {field} hold NaN"):
        metric.update(preds, target)
    assert math.isnan(numbers(metric)["ar_50"])


@pytest.mark.parametrize("boxes, scores", [(torch.zeros(2, 4), torch.zeros(3)), (torch.zeros(2, 5), torch.zeros(2))])
def test_shapes_that_do_not_fit_are_rejected(boxes: Tensor, scores: Tensor) -> None:
    with pytest.raises(ValueError, match="boxes of shape"):
        recall([ground_truth(1, [BOX], [0])], {1: (boxes, scores)})


@pytest.mark.parametrize("top", [[], [50, 50], [0, 50], [-1]])
def test_invalid_limits_are_rejected(top: list[int]) -> None:
    with pytest.raises(UserError, match="top"):
        ProposalRecall(top)
