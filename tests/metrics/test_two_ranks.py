"""Two ranks give the numbers of one, however the images fall to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torchmetrics import MetricCollection

from anchor_lightning.metrics import COCOMeanAveragePrecision, ProposalRecall, VOCMeanAveragePrecision
from tests.helpers.metric_processes import on_two_ranks
from tests.helpers.metric_scenes import found, ground_truth, nothing, random_scene, torchmetrics_input

BOX = [10.0, 10.0, 50.0, 50.0]
FOUND, MISSED = found([BOX], [0.9], [0]), nothing()
# What each of two ranks updates, by image id. Of nine images the last is never updated.
SHARDS: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "uneven": ([1, 3, 5, 7, 8], [2, 4, 6]),
    "unsorted": ([6, 4, 2], [8, 7, 1, 5, 3]),
    "one on rank 0": ([5], [1, 2, 3, 4, 6, 7, 8]),
    "one on rank 1": ([1, 2, 3, 4, 5, 6, 7], [8]),
    "one on each": ([2], [7]),
    "nothing on rank 1": ([1, 2, 3, 4, 5, 6, 7, 8], []),
    "nothing on rank 0": ([], [1, 2, 3, 4, 5, 6, 7, 8]),
    "padded": ([1, 3, 5, 7], [2, 4, 6, 8, 1]),
    "everything twice": ([1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]),
    "nothing anywhere": ([], []),
}


def numbers(metric: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def evaluate(image_ids: Sequence[int]) -> dict[str, float]:
    """All metrics, updated image by image in this order."""
    ground_truths, detections = random_scene(11, num_images=9, num_classes=3)
    average_precision = MetricCollection(
        [metric_class(3, per_class=True) for metric_class in (COCOMeanAveragePrecision, VOCMeanAveragePrecision)]
    )
    recall = ProposalRecall([2, 10])
    for image_id in image_ids:
        images = torchmetrics_input([ground_truths[image_id - 1]], detections)
        average_precision.update(*images)
        recall.update(*images)
    return numbers(average_precision) | numbers(recall)


def one_image(number: int | None, is_found: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    preds, target = torchmetrics_input([ground_truth(1, [BOX], [0])], {1: FOUND if is_found else MISSED})
    target[0]["image_id"] = number
    return preds, target


def copies_that_differ(rank: int) -> list[float]:
    metrics = ProposalRecall([50]), VOCMeanAveragePrecision(1)
    for metric in metrics:
        metric.update(*one_image(1, is_found=rank == 0))
    return [float(metrics[0].compute()["ar_50"]), float(metrics[1].compute()["map_voc"])]


def computed_twice(rank: int) -> list[float]:
    """Images without ids; rank 1 has taken two more, with `forward`."""
    metric = VOCMeanAveragePrecision(1)
    for is_found in (True, False)[: 2 * rank]:
        metric(*one_image(None, is_found))  # on this rank alone, so without waiting for the other
    results = []
    for is_found in (True, False):
        metric.update(*one_image(None, is_found))
        results.append(numbers(metric)["map_voc"])
    return results


def error_on_rank_0() -> str:
    metric = VOCMeanAveragePrecision(1)
    metric.average_precision = lambda *_: 1 / 0  # type: ignore[assignment]
    metric.update(*one_image(1, is_found=True))
    with pytest.raises(ZeroDivisionError) as error:
        metric.compute()
    return str(error.value)


def _rank(rank: int) -> dict[str, Any]:
    return {
        "shards": {name: evaluate(shards[rank]) for name, shards in SHARDS.items()},
        "copies that differ": copies_that_differ(rank),
        "computed twice": computed_twice(rank),
        "error": error_on_rank_0(),
    }


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_ranks_equal_one_to_the_digit(tmp_path: Path) -> None:
    for results in on_two_ranks(_rank, tmp_path):
        for name, shards in SHARDS.items():
            expected = evaluate(sorted({*shards[0], *shards[1]}))
            assert json.dumps(results["shards"][name]) == json.dumps(expected), name  # NaN for NaN
        uneven = results["shards"]["uneven"]
        assert uneven["map"] > 0 and 0 < uneven["ar_2"] < uneven["ar_10"]
        assert results["copies that differ"] == [1, 1]  # the lower rank's counts
        # Rank 0 has found 1 of 1, then of 2, rank 1 2 of 3, then of 4.
        assert results["computed twice"] == [3 / 4, 3 / 6]
        assert "zero" in results["error"]
