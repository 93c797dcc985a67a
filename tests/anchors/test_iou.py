from __future__ import annotations

import math

import pytest
import torch

from anchor_lightning.anchors import best_iou, mean_best_iou, shape_iou
from anchor_lightning.anchors.iou import CHUNK


def test_best_iou_by_hand() -> None:
    boxes = torch.tensor([[10.0, 10.0], [40.0, 10.0], [100.0, 50.0]])
    iou, best = best_iou(boxes, torch.tensor([[10.0, 20.0], [100.0, 50.0], [10.0, 20.0]]))
    torch.testing.assert_close(iou, torch.tensor([0.5, 0.2, 1.0], dtype=torch.float64))
    assert best.tolist() == [0, 0, 1], "the first of equal shapes"


def test_chunks_do_not_show() -> None:
    boxes = torch.rand(CHUNK + 10, 2, generator=torch.Generator().manual_seed(0)) * 100 + 1
    wh = torch.tensor([[20.0, 20.0], [60.0, 70.0]])
    iou, best = best_iou(boxes, wh)
    expected = shape_iou(boxes.double()[:, None], wh.double()).max(1)
    assert torch.equal(iou, expected.values) and torch.equal(best, expected.indices)
    assert mean_best_iou(boxes, wh) == pytest.approx(float(expected.values.mean()))
    assert math.isnan(mean_best_iou(torch.empty(0, 2), torch.ones(3, 2)))
