from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchor_lightning.anchors import mean_best_iou, shape_iou
from anchor_lightning.errors import UserError
from anchor_lightning.fitting import ascent_shapes, check_distinct, kmeans, kmeans_shapes


def clusters(*centres: tuple[float, float], num: int = 200, spread: float = 0.05) -> Tensor:
    """Boxes log-normally around the centres."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.tensor(c) * torch.exp(spread * torch.randn(num, 2, generator=generator)) for c in centres]
    return torch.cat(rows)


def test_finds_separate_clusters() -> None:
    centres = [(20.0, 24.0), (40.0, 120.0), (150.0, 60.0)]
    found = kmeans_shapes(clusters(*centres), 3)
    torch.testing.assert_close(found, torch.tensor(centres), rtol=0.03, atol=0)


def test_beats_a_plain_restart() -> None:
    """No worse than 20 runs of the textbook algorithm written as loops; which of the best it is depends on the seed."""
    boxes = clusters((20.0, 24.0), (60.0, 80.0), (150.0, 60.0), num=60, spread=0.5)
    generator = torch.Generator().manual_seed(5)
    best = 0.0
    for _ in range(20):
        centres = boxes[torch.randperm(len(boxes), generator=generator)[:4]]
        for _ in range(50):
            nearest = shape_iou(boxes[:, None], centres[None]).argmax(1)
            centres = torch.stack(
                [boxes[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(4)]
            )
        best = max(best, mean_best_iou(boxes, centres))
    found = [kmeans_shapes(boxes, 4, seed) for seed in range(5)]
    assert min(mean_best_iou(boxes, centres) for centres in found) >= best - 1e-3
    assert len(torch.stack(found).unique(dim=0)) > 1


def test_of_many_boxes_a_seeded_sample_is_clustered_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As good for all the boxes as the clustering of all of them; up to 65,536 nothing is left out."""
    said: list[str] = []
    monkeypatch.setattr(kmeans, "info", said.append)
    centres = [(20.0, 24.0), (40.0, 120.0), (150.0, 60.0)]
    boxes = clusters(*centres, num=30_000, spread=0.3)
    found = kmeans_shapes(boxes, 3, seed=4)
    assert said == ["k-means on 65,536 of 90,000 boxes, a random sample that the seed 4 gives."]
    assert mean_best_iou(boxes, found) == pytest.approx(mean_best_iou(boxes, torch.tensor(centres)), abs=0.01)
    unseen = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(4))[65_536:]
    boxes[unseen] = 1.0
    assert torch.equal(found, kmeans_shapes(boxes, 3, seed=4)) and len(said) == 2
    kmeans_shapes(boxes[:65_536], 3)
    assert len(said) == 2


@pytest.mark.parametrize("fit", [kmeans_shapes, ascent_shapes])
def test_needs_as_many_distinct_boxes(fit: Callable[[Tensor, int], Tensor]) -> None:
    boxes = torch.tensor([[10.0, 20.0], [30.0, 40.0]]).repeat(50, 1)
    for wh, num, message in ((boxes, 3, "2 distinct"), (boxes[:0], 3, "no boxes"), (boxes, 0, "num: 0")):
        with pytest.raises(UserError, match=message):
            fit(wh, num)
    torch.testing.assert_close(fit(boxes, 2), boxes[:2])


@pytest.mark.parametrize(("levels", "said"), [(1, "at most 8$"), (3, "at most 6$"), (9, "too few for 9 levels")])
def test_the_number_that_is_advised_divides_among_the_levels(levels: int, said: str) -> None:
    with pytest.raises(UserError, match=f"9 shapes, but .* only 8 distinct .*{said}"):
        check_distinct(torch.arange(1.0, 9)[:, None].expand(8, 2), 9, levels)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_is_seeded_and_stays_within_the_boxes(num: int, seed: int) -> None:
    boxes = torch.exp(torch.randn(40, 2, generator=torch.Generator().manual_seed(seed)) + 3)
    centres = kmeans_shapes(boxes, num, seed)
    assert centres.shape == (num, 2) and torch.equal(centres, kmeans_shapes(boxes, num, seed))
    assert (centres >= boxes.amin(0) * 0.999).all() and (centres <= boxes.amax(0) * 1.001).all()
