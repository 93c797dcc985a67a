"""Recall of proposals against pycocotools' class-agnostic evaluation, and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_lightning.errors import UserError
from anchor_lightning.metrics import ProposalRecall
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.metric_scenes import BOX, ELSEWHERE, found, ground_truth, numbers, random_scene, torchmetrics_input
from tests.helpers.pycocotools_reference import as_coco, evaluate

FAR = [300.0, 300.0, 310.0, 310.0]
HUGE = [0.0, 0.0, 2e5, 2e5]  # beyond COCO's 1e5^2
LIMITS = (50, 100, 300, 1000)


def assert_is_pycocotools(
    ground_truths: list[GroundTruth], detections: dict[int, Detections], top: Sequence[int] = LIMITS
) -> dict[str, float]:
    """COCO's own evaluation of all images at once, with every ground truth in its class and classes off."""
    metric = ProposalRecall(top)
    metric.update(*torchmetrics_input(ground_truths, detections))
    proposals = {i: replace(d, labels=torch.zeros_like(d.labels)) for i, d in detections.items()}
    evaluation = evaluate(*as_coco(ground_truths, proposals, 80), proposal_limits=sorted(top))
    recall = evaluation.eval["recall"][:, 0, 0]  # thresholds, limits
    recall = np.where(recall < 0, np.nan, recall)
    expected = {f"ar_{limit}": value for limit, value in zip(sorted(top), recall.mean(0), strict=True)}
    expected |= {f"recall_iou50_{limit}": value for limit, value in zip(sorted(top), recall[0], strict=True)}
    result = numbers(metric)
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
    ground_truths, detections = random_scene(seed, num_images, num_classes, scale)
    assert_is_pycocotools(ground_truths[::-1] if backwards else ground_truths, detections, top=(1, 2, 5, 10))


def test_equals_pycocotools_on_a_thousand_proposals_with_hundreds_of_ties() -> None:
    result = assert_is_pycocotools(*random_scene(1, num_images=3, scale=30, max_boxes=100, max_found=2000))
    recalls = [result[f"ar_{limit}"] for limit in LIMITS]
    assert recalls == sorted(set(recalls)), "each limit should matter in this scene"


PAIR, ALIKE = [[0, 0, 40, 40], [0, 10, 40, 50]], [[0, 0, 40, 40], [0, 20, 40, 60]]
HALF_WAY = found([[0, 10, 40, 50], [0, 0, 40, 40]], [0.9, 0.8])
CROWD = ground_truth(2, [BOX], ignore=[True])
# Ground truth, proposals, the limits; and the average recall then the recall at IoU 0.5 for each rising limit.
BY_HAND: dict[str, tuple[list[GroundTruth], dict[int, Detections], list[int], list[float]]] = {
    # IoU 60 / 100 = 0.6 reaches 0.5, 0.55 and 0.6: three of ten thresholds. 59 / 118 is the lowest threshold itself.
    "on a threshold": ([ground_truth(1, [[0, 0, 10, 10]])], {1: found([[0, 0, 6, 10]], [0.5])}, [50], [0.3, 1]),
    "on the lowest": ([ground_truth(1, [[0, 0, 118, 1]])], {1: found([[0, 0, 59, 1]], [0.5])}, [50], [0.1, 1]),
    # By score: elsewhere, nothing, the box. One of three ground truth boxes is found by the best one, and by two; two
    # by three.
    "the best of each image": (
        [ground_truth(1, [BOX, ELSEWHERE]), ground_truth(2, [FAR])],
        {1: found([BOX, ELSEWHERE, FAR], [0.1, 0.9, 0.5])},
        [3, 1, 2],
        [1 / 3, 1 / 3, 2 / 3] * 2,
    ),
    # Both proposals overlap the first ground truth most (IoU 1). The second has 0.6 with the other ground truth: 3 of
    # 10 thresholds.
    "a second one goes to the next best": (
        [ground_truth(1, PAIR, [0, 1])],
        {1: found(PAIR[:1] * 2, [0.9, 0.8])},
        [1, 2],
        [0.5, (1 + 0.3) / 2, 0.5, 1],
    ),
    # The best proposal has IoU 0.6 with both ground truth boxes and takes that of the last class, the second is the
    # first ground truth: found only where that is left free.
    "alike, the first free": ([ground_truth(1, ALIKE, [0, 1])], {1: HALF_WAY}, [50], [(3 * 2 + 7) / 20, 1]),
    "alike, the first taken": ([ground_truth(1, ALIKE, [1, 0])], {1: HALF_WAY}, [50], [10 / 20, 0.5]),
    "classes and sizes do not matter": (
        [ground_truth(1, [BOX, ELSEWHERE, HUGE], [5, 79, 0])],
        {1: found([BOX, HUGE], [0.5, 0.4])},
        [50],
        [2 / 3, 2 / 3],
    ),
    "crowds need not be found and take no proposal away": (
        [ground_truth(1, [BOX, ELSEWHERE, BOX], [0, 0, 1], ignore=[True, False, False]), CROWD],
        {1: found([BOX], [0.9])},
        [50],
        [0.5, 0.5],
    ),
    "equal scores in their order": ([ground_truth(1, [BOX])], {1: found([BOX, FAR], [0.5, 0.5])}, [1], [1, 1]),
    "equal scores the other way": ([ground_truth(1, [BOX])], {1: found([FAR, BOX], [0.5, 0.5])}, [1], [0, 0]),
    "no image": ([], {}, [1], [math.nan] * 2),
    "no ground truth": ([ground_truth(1, [])], {1: found([BOX], [0.5])}, [1], [math.nan] * 2),
    "crowds alone": ([CROWD], {2: found([BOX], [0.5])}, [1], [math.nan] * 2),
    "no proposals": ([ground_truth(1, [BOX])], {}, [1], [0, 0]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_recall_by_hand(name: str) -> None:
    *case, expected = BY_HAND[name]
    assert [*assert_is_pycocotools(*case).values()] == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("top", [[], [50, 50], [0, 50], [-1]])
def test_invalid_limits_are_rejected(top: list[int]) -> None:
    with pytest.raises(UserError, match="top"):
        ProposalRecall(top)
