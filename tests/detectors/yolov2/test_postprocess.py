from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, nms

from anchor_lightning.detectors.yolo.head import decode
from anchor_lightning.detectors.yolo.postprocess import MAX_DETECTIONS, NMS_IOU, postprocess
from anchor_lightning.structures import Predictions

LOG_WH = torch.tensor([[40.0, 40.0], [60.0, 30.0]]).log()


def logit(p: float) -> float:
    return float(torch.tensor(p).logit())


def quiet(num_classes: int, grid: tuple[int, int] = (2, 3)) -> Tensor:
    """Predictions of nothing: objectness far below the threshold."""
    raw = torch.zeros(1, 2, 5 + num_classes, *grid)
    raw[:, :, 4] = -20
    return raw


def test_one_object_by_hand() -> None:
    raw = quiet(3)
    raw[0, 1, :, 1, 2] = torch.tensor([0.0, 0.0, 0.0, 0.0, logit(0.8), 2.0, 0.0, 0.0])
    (found,) = postprocess([Predictions(raw, 32)], LOG_WH, 0.05)
    probability = torch.tensor([2.0, 0.0, 0.0]).softmax(0)
    # One box may score in several classes: 0.8 x softmax for all three.
    assert found.scores.tolist() == pytest.approx((0.8 * probability).tolist(), rel=1e-4)
    assert found.labels.tolist() == [0, 1, 2] and found.anchors.tolist() == [1, 1, 1]
    # Centre (80, 48), sides 60 x 30, on a 96 x 64 image: the right side is clipped from 110 to 96.
    assert found.boxes_xyxy[0].tolist() == pytest.approx([50, 33, 96, 63])


def test_nms_is_per_class() -> None:
    raw = quiet(2)
    strong, weak = [logit(0.9), 9.0, 0.0], [logit(0.6), 9.0, 0.0]
    raw[0, 0, 4:, 0, 0] = torch.tensor(strong)
    raw[0, 0, 4:, 0, 1] = torch.tensor(weak)
    raw[0, 0, 0, 0, 1] = -20  # the second box's centre moves 16 pixels nearer: IoU of 40 x 40 at distance 16 is 0.43
    (found,) = postprocess([Predictions(raw, 32)], LOG_WH, 0.05)
    assert len(found.scores) == 2
    raw[0, 0, 0, 0, 0] = 20  # now both centres are at x = 32: the weaker one goes
    (found,) = postprocess([Predictions(raw, 32)], LOG_WH, 0.05)
    assert found.scores.tolist() == pytest.approx([0.9], abs=1e-3)
    raw[0, 0, 5:, 0, 1] = torch.tensor([0.0, 9.0])  # unless it is of the other class
    (found,) = postprocess([Predictions(raw, 32)], LOG_WH, 0.05)
    assert found.labels.tolist() == [0, 1]
    (found,) = postprocess([Predictions(quiet(3), 32)], LOG_WH, 0.005)
    assert found.boxes_xyxy.shape == (0, 4) and len(found.labels) == len(found.anchors) == 0


@pytest.mark.parametrize("spread", [0.02, 1.0])
def test_early_stop_of_nms_changes_nothing(spread: float) -> None:
    """An untrained network has candidates by the ten thousand: the result is that of NMS over all of a class."""
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(1, 2, 5 + 20, 10, 13, generator=generator) * spread
    (found,) = postprocess([Predictions(raw, 32)], LOG_WH, 0.005)
    boxes = box_convert(decode(raw, LOG_WH, 32)[0].permute(0, 2, 3, 1).reshape(-1, 4), "cxcywh", "xyxy")
    scores = (raw[0, :, 5:].softmax(1) * raw[0, :, 4:5].sigmoid()).permute(0, 2, 3, 1).reshape(-1, 20)
    kept: list[float] = []
    for of_label in scores.T:
        above = of_label > 0.005
        kept += of_label[above][nms(boxes[above], of_label[above], NMS_IOU)].tolist()
    assert found.scores.tolist() == pytest.approx(sorted(kept, reverse=True)[:MAX_DETECTIONS], rel=1e-5)


def test_huge_offsets_give_finite_boxes() -> None:
    raw = quiet(2)
    raw[0, 0, :, 0, 0] = torch.tensor([1e4, -1e4, 1e4, 1e4, 50.0, 1.0, 0.0])
    (found,) = postprocess([Predictions(raw, 32)], LOG_WH, 0.005)
    assert found.boxes_xyxy.isfinite().all() and len(found.boxes_xyxy) == 2
