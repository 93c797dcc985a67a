"""Two ranks give the numbers of one, however the images fall to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics import MetricCollection

from anchor_lightning.metrics import (
    COCOMeanAveragePrecision,
    DetectionConfusionMatrix,
    ProposalRecall,
    VOCMeanAveragePrecision,
)
from tests.helpers.metric_scenes import BOX, found, ground_truth, numbers, random_scene, torchmetrics_input

# What each of two ranks updates, by image id. Of nine images the last is never updated.
SHARDS: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "uneven": ([6, 4, 2], [8, 7, 1, 5, 3]),
    "one on rank 0": ([5], [1, 2, 3, 4, 6, 7, 8]),
    "nothing on rank 0": ([], [1, 2, 3, 4, 5, 6, 7, 8]),
    "nothing on rank 1": ([1, 2, 3, 4, 5, 6, 7, 8], []),
    "padded": ([1, 3, 5, 7], [2, 4, 6, 8, 1]),
    "everything twice": ([1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]),
    "nothing anywhere": ([], []),
}


def evaluated(image_ids: Sequence[int]) -> dict[str, float]:
    """All metrics, updated image by image in this order."""
    ground_truths, detections = random_scene(11, num_images=9, num_classes=3)
    classes = (COCOMeanAveragePrecision, VOCMeanAveragePrecision)
    average_precision = MetricCollection([metric_class(3, per_class=True) for metric_class in classes])
    recall, confusion = ProposalRecall([2, 10]), DetectionConfusionMatrix(3)
    for image_id in image_ids:
        images = torchmetrics_input([ground_truths[image_id - 1]], detections)
        average_precision.update(*images)
        recall.update(*images)
        confusion.update(*images)
    cells = {f"cell {place}": float(value) for place, value in enumerate(confusion.compute().flatten())}
    return numbers(average_precision) | numbers(recall) | cells


def one_image(number: int | None, is_found: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    preds, target = torchmetrics_input([ground_truth(1, [BOX])], {1: found([BOX], [0.9])} if is_found else {})
    target[0]["image_id"] = number
    return preds, target


def copies_that_differ(rank: int) -> list[float]:
    metrics = ProposalRecall([50]), VOCMeanAveragePrecision(1)
    for metric in metrics:
        metric.update(*one_image(1, is_found=rank == 0))
    return [numbers(metrics[0])["ar_50"], numbers(metrics[1])["map_voc"]]


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


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", (folder / "store").as_uri(), timedelta(seconds=60), world_size=2, rank=rank)
    shards = {name: evaluated(shards[rank]) for name, shards in SHARDS.items()}
    results = [shards, copies_that_differ(rank), computed_twice(rank), error_on_rank_0()]
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_ranks_equal_one_to_the_digit(tmp_path: Path) -> None:
    # Forked: a spawned process would import torch and torchmetrics anew.
    mp.start_processes(_rank, (tmp_path,), nprocs=2, start_method="fork")
    expected = {name: evaluated(sorted({*shards[0], *shards[1]})) for name, shards in SHARDS.items()}
    for rank in range(2):
        of_shards, differing, twice, error = json.loads((tmp_path / f"{rank}.json").read_text())
        np.testing.assert_equal(of_shards, expected)  # NaN for NaN
        assert of_shards["uneven"]["map"] > 0
        assert 0 < of_shards["uneven"]["ar_2"] < of_shards["uneven"]["ar_10"]
        assert differing == [1, 1]  # the lower rank's counts
        # Rank 0 has found 1 of 1, then of 2, rank 1 2 of 3, then of 4.
        assert twice == [3 / 4, 3 / 6]
        assert "zero" in error
