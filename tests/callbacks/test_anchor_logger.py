from __future__ import annotations

import torch

from anchor_lightning.callbacks.anchor_logger import format_table, learned_table, sample, usage

INITIAL = torch.tensor([[160.0, 160.0], [160.0, 160.0]])
LEARNED = torch.tensor([[30.0, 70.0], [100.0, 52.0]])


def test_table_by_hand() -> None:
    modes = torch.tensor([[100.0, 50.0], [30.0, 70.0]])
    columns, rows = learned_table(INITIAL, LEARNED, torch.tensor([0.25, 0.75]), modes)
    assert columns[-3:] == ["nearest mode w", "nearest mode h", "IoU with it"]
    assert rows[0] == [0, 160.0, 160.0, 30.0, 70.0, 0.25, 30.0, 70.0, 1.0]
    assert rows[1] == [1, 160.0, 160.0, 100.0, 52.0, 0.75, 100.0, 50.0, round(50 / 52, 3)]
    lines = format_table(columns, rows).splitlines()
    assert "pixels" in lines[0] and len({len(line) for line in lines[1:]}) == 1


def test_usage_by_hand() -> None:
    boxes = torch.tensor([[30.0, 70.0], [31.0, 70.0], [29.0, 65.0], [100.0, 50.0]])
    assert usage(boxes, LEARNED).tolist() == [0.75, 0.25]
    assert usage(boxes[:0], LEARNED).tolist() == [0.0, 0.0]


def test_a_large_set_is_sampled_and_always_the_same() -> None:
    boxes = torch.arange(120_000.0).view(-1, 2)
    assert torch.equal(sample(boxes), sample(boxes)) and len(sample(boxes)) == 50_000
    assert len(sample(boxes).unique(dim=0)) == 50_000
    assert torch.equal(sample(boxes[:10]), boxes[:10])
