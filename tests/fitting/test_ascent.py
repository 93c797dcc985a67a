"""Gradient ascent on the mean best IoU: optima that are known, and k-means as the bar on real boxes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.data import VOCDataModule
from anchor_lightning.fitting import ascent_shapes, kmeans_shapes
from anchor_lightning.fitting.ascent import gather

SIDES = st.floats(2, 400, width=32)


@pytest.mark.filterwarnings("ignore:Boxes of")
@pytest.mark.parametrize(("data", "num"), [("VOC", 5), ("BCCD", 9)])
def test_beats_kmeans_on_real_boxes(shared_data: Path, voc_boxes: Tensor, data: str, num: int) -> None:
    boxes = voc_boxes if data == "VOC" else VOCDataModule(root=str(shared_data / data)).train_box_shapes()
    assert mean_best_iou(boxes, ascent_shapes(boxes, num)) > mean_best_iou(boxes, kmeans_shapes(boxes, num))


@settings(deadline=None, max_examples=4)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=4, max_size=30, unique=True), st.integers(1, 4))
def test_is_never_worse_than_kmeans(sides: list[tuple[float, float]], num: int) -> None:
    boxes = torch.tensor(sides)
    found = ascent_shapes(boxes, num)
    assert found.shape == (num, 2) and bool((found > 0).all())
    assert mean_best_iou(boxes, found) >= mean_best_iou(boxes, kmeans_shapes(boxes, num))
    assert found.prod(1).tolist() == sorted(found.prod(1).tolist())


def test_one_box_a_shape_is_hit_exactly() -> None:
    boxes = torch.tensor([[10.0, 20.0], [60.0, 30.0], [200.0, 250.0]]).repeat(50, 1)
    torch.testing.assert_close(ascent_shapes(boxes, 3), boxes[:3], rtol=0.01, atol=0)


def test_one_shape_for_boxes_of_one_aspect_against_a_search() -> None:
    """With squares only the score depends on the side alone, so that a fine search knows the optimum."""
    side = torch.exp(torch.randn(500, generator=torch.Generator().manual_seed(0)) * 0.5 + 4)
    boxes = torch.stack([side, side], dim=1)
    grid = torch.linspace(float(side.min()), float(side.max()), 2000)
    best = max(mean_best_iou(boxes, torch.tensor([[s, s]])) for s in grid.tolist())
    assert mean_best_iou(boxes, ascent_shapes(boxes, 1)) == pytest.approx(best, abs=2e-4)


def test_is_seeded_and_knows_no_unit() -> None:
    boxes = torch.exp(torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))) * 50
    first = ascent_shapes(boxes, 2)
    assert torch.equal(first, ascent_shapes(boxes, 2)) and not torch.equal(first, ascent_shapes(boxes, 2, seed=1))
    assert mean_best_iou(boxes, ascent_shapes(boxes / 416, 2) * 416) == pytest.approx(
        mean_best_iou(boxes, first), rel=2e-3
    )


def test_cells_keep_every_box() -> None:
    boxes = torch.exp(torch.randn(1000, 2, generator=torch.Generator().manual_seed(2))) * 50
    cells = gather(boxes, 0.1)
    assert len(cells.wh) < len(boxes) and float(cells.weight.sum()) == pytest.approx(1)
    mean = (cells.weight[:, None] * cells.wh.log()).sum(0)
    torch.testing.assert_close(mean, boxes.log().mean(0), rtol=1e-4, atol=1e-4)
