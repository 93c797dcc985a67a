from __future__ import annotations

import torch

from anchor_lightning.structures import DetectionBatch


def test_a_batch_moves_whole() -> None:
    tensors = [torch.zeros(2, 3, 4, 4, dtype=torch.uint8), *(torch.rand(2, 3) for _ in range(6))]
    batch = DetectionBatch(*tensors)
    assert len(batch) == 2
    moved = batch.to("meta")
    assert all(tensor.device.type == "meta" for tensor in vars(moved).values())
    assert moved.images.dtype == torch.uint8 and batch.images.device.type == "cpu", "the original stays"
