from __future__ import annotations

import torch

from anchor_lightning.anchors.iou import shape_iou


def test_shape_iou_by_hand() -> None:
    # 4 x 2 and 2 x 6 overlap in 2 x 2; the union is 8 + 12 - 4.
    assert float(shape_iou(torch.tensor([4.0, 2.0]), torch.tensor([2.0, 6.0]))) == 4 / 16
    assert float(shape_iou(torch.tensor([4.0, 2.0]), torch.tensor([4.0, 2.0]))) == 1


def test_broadcasts() -> None:
    assert shape_iou(torch.ones(7, 1, 2), torch.ones(1, 3, 2)).shape == (7, 3)
