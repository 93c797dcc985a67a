"""The metrics of a split, from batches and known ground truth."""

from __future__ import annotations

import pytest
import torch

from anchor_lightning.metrics.evaluation import Evaluation
from anchor_lightning.structures import DetectionBatch
from tests.helpers.metric_scenes import BOX, found, ground_truth

SPLIT = [ground_truth(i, [BOX]) for i in (3, 5, 8)]


def batch(*image_ids: int) -> DetectionBatch:
    """Inputs of 100 x 200 pixels (height, width) of stored images of 200 x 100."""
    count = len(image_ids)
    sizes = torch.tensor([[200.0, 100.0]]).repeat(count, 1)
    boxes, labels, colour = torch.zeros(count, 1, 4), torch.zeros(count, 1, dtype=torch.int64), torch.zeros(count, 3)
    images, ids = torch.zeros(count, 3, 100, 200), torch.tensor(image_ids, dtype=torch.int64)
    return DetectionBatch(images, boxes, labels, labels > 0, ids, sizes, colour)


def test_images_that_were_updated_count_once_with_their_first_detections() -> None:
    evaluation = Evaluation(SPLIT, ["cat"], two_stage=False)
    evaluation.update(batch(8, 3), [found([BOX], [0.5]), found([], [])], [])
    evaluation.update(batch(), [], [])
    evaluation.update(batch(8), [found([], [])], [])
    result = evaluation.compute()
    assert (result["map_voc"], result["ap/cat"]) == (0.5, pytest.approx(51 / 101))
    assert list(evaluation.detections) == [8, 3] and len(evaluation.detections[8].scores) == 1
    assert {name for name in result if "/" in name} == {"ap/cat", "ap_50/cat", "ap_voc/cat", "ap_voc07/cat"}
    assert evaluation.details is None, "which takes time"


def test_details_by_hand() -> None:
    """Of three boxes one is found with a score of 0.5, one with one that is too low for the confusion matrix."""
    evaluation = Evaluation(SPLIT, ["cat"], two_stage=False, detailed=True)
    evaluation.update(batch(8, 3, 5), [found([BOX], [0.5]), found([BOX], [0.25]), found([], [])], [])
    result, details = evaluation.compute(), evaluation.details
    assert details is not None and not {"precision_50", "scores_50"} & result.keys()
    assert details.precision_50.tolist() == [[1.0] * 67 + [0.0] * 34], "up to a recall of 2 / 3"
    assert details.scores_50.tolist() == [[0.5] * 34 + [0.25] * 33 + [0.0] * 34]
    assert result["map_50"] == result["ap_50/cat"] == pytest.approx(67 / 101)
    assert (details.score_threshold, details.iou_threshold) == (0.3, 0.5)
    assert details.confusion.tolist() == [[1, 2], [0, 0]]


def test_proposals_are_scaled_to_the_stored_image_and_rank_by_their_order() -> None:
    evaluation = Evaluation(SPLIT, ["cat"], two_stage=True)
    in_input = [20.0, 5.0, 100.0, 25.0]  # twice as wide, half as high
    elsewhere = [[0.0, 0.0, 1.0, 1.0]] * 50
    proposals = [torch.tensor([in_input, *elsewhere])] * 2 + [torch.tensor([*elsewhere, in_input])]
    evaluation.update(batch(3, 5, 8), [found([], [])] * 3, proposals)
    evaluation.update(batch(), [], [])
    result = evaluation.compute()
    assert (result["rpn_ar_50"], result["rpn_ar_100"]) == (pytest.approx(2 / 3), 1)
    assert {name for name in result if name.startswith("rpn_")} == {
        f"rpn_{kind}_{limit}" for kind in ("ar", "recall_iou50") for limit in (50, 100, 300, 1000)
    }
