from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchor_lightning.anchors import initial_shapes, kmeans_shapes, mean_best_iou, num_shapes
from anchor_lightning.anchors.iou import shape_iou


def clusters(*centres: tuple[float, float], num: int = 200, spread: float = 0.05) -> Tensor:
    """Boxes log-normally around the centres."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.tensor(c) * torch.exp(spread * torch.randn(num, 2, generator=generator)) for c in centres]
    return torch.cat(rows)


def test_named_sets_are_the_papers_in_pixels() -> None:
    uniform = initial_shapes("uniform")
    assert uniform is not None
    assert uniform.tolist() == [[96, 96], [96, 288], [288, 288], [288, 96], [192, 192]]
    identical = initial_shapes("identical", 3)
    assert identical is not None
    assert identical.tolist() == [[160, 160]] * 3
    voc, coco = initial_shapes("yolov2-voc"), initial_shapes("yolov2-coco")
    assert voc is not None and coco is not None
    # 32 x the anchors of YOLOv2's published yolov2-voc.cfg and yolov2.cfg.
    torch.testing.assert_close(voc[0], torch.tensor([42.3072, 55.4064]))
    torch.testing.assert_close(coco[-1], torch.tensor([312.65664, 293.38496]))


def test_list_is_taken_as_it_is() -> None:
    shapes = initial_shapes([[10, 20], [30, 40], [50, 60]])
    assert shapes is not None
    assert shapes.tolist() == [[10, 20], [30, 40], [50, 60]]
    assert num_shapes([[10, 20]], None) == 1


@pytest.mark.parametrize(
    ("init", "num", "message"),
    [
        ("uniform", 7, "has 5 shapes.*kmeans or identical"),
        ("yolov2-voc", 3, "has 5 shapes"),
        ([[1.0, 2.0]], 5, "the list has 1 shapes"),
        ([], None, "empty"),
        ("unifrom", None, "unknown 'unifrom'; known are"),
        ("kmeans", 0, "1 or more"),
        ([[1.0, 2.0, 3.0]], None, "every shape is"),
        ([[1.0, -2.0]], None, "must be positive"),
    ],
)
def test_what_bad_options_get(init: str | list[list[float]], num: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        initial_shapes(init, num)


def test_kmeans_waits_for_boxes() -> None:
    assert initial_shapes("kmeans", 3) is None


def test_kmeans_finds_separate_clusters() -> None:
    centres = [(20.0, 24.0), (40.0, 120.0), (150.0, 60.0)]
    found = kmeans_shapes(clusters(*centres), 3)
    torch.testing.assert_close(found, torch.tensor(centres), rtol=0.03, atol=0)


def test_kmeans_is_seeded() -> None:
    boxes = clusters((20.0, 24.0), (60.0, 80.0), spread=0.6)
    assert torch.equal(kmeans_shapes(boxes, 5, seed=1), kmeans_shapes(boxes, 5, seed=1))


def test_kmeans_beats_a_plain_restart() -> None:
    """No worse than 20 runs of the textbook algorithm written as loops."""
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
    assert mean_best_iou(boxes, kmeans_shapes(boxes, 4)) >= best - 1e-3


def test_kmeans_needs_as_many_distinct_boxes() -> None:
    boxes = torch.tensor([[10.0, 20.0], [30.0, 40.0]]).repeat(50, 1)
    with pytest.raises(ValueError, match="only 2 distinct shapes; ask for at most 2"):
        kmeans_shapes(boxes, 3)
    with pytest.raises(ValueError, match="no boxes"):
        kmeans_shapes(boxes[:0], 3)
    assert kmeans_shapes(boxes, 2).tolist() == [[10, 20], [30, 40]]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_kmeans_centres_stay_within_the_boxes(num: int, seed: int) -> None:
    boxes = torch.exp(torch.randn(40, 2, generator=torch.Generator().manual_seed(seed)) + 3)
    centres = kmeans_shapes(boxes, num)
    assert centres.shape == (num, 2)
    assert (centres >= boxes.amin(0) * 0.999).all() and (centres <= boxes.amax(0) * 1.001).all()
