from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ImageColor

from anchor_lightning.pictures import (
    COLOURS,
    best_detections,
    contact_sheet,
    draw_detections,
    resize,
    scale_detections,
)
from anchor_lightning.structures import Detections

NAMES = ["cat", "dog"]
GREY = 90


def found(*rows: tuple[list[float], float, int, int]) -> Detections:
    boxes, scores, labels, anchors = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(anchors, dtype=torch.int64),
    )


def colour(label: int) -> tuple[int, ...]:
    return ImageColor.getrgb(COLOURS[label % len(COLOURS)][0])


def blank(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def test_a_frame_covers_the_first_and_last_pixels_of_its_box() -> None:
    """A box from 50 to 150 holds the pixels 50 to 149."""
    image = blank()
    drawn = draw_detections(image, found(([50, 60, 150, 160], 0.9, 1, 0)), NAMES)
    changed = (drawn != GREY).any(axis=2)
    assert changed[100].nonzero()[0].tolist() == [50, 51, 148, 149], "two pixels of line on either side"
    assert changed[:, 149].nonzero()[0].max() == 159
    assert tuple(drawn[100, 50]) == colour(1)
    assert (image == GREY).all(), "the image handed in stays as it was"


def test_text_stands_above_its_box_and_names_class_score_and_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageDraw

    written: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, xy, text, **_: written.append(text))
    detections = found(([50, 60, 150, 160], 0.874, 1, 3), ([1, 1, 9, 9], 0.3, 0, 0))
    drawn = draw_detections(blank(), detections, NAMES, show_anchors=True)
    assert written == ["cat 0.30 #0", "dog 0.87 #3"], "best last, on top"
    assert tuple(drawn[55, 55]) == colour(1), "its ground has the colour of the class"
    draw_detections(blank(), detections, NAMES)
    assert written[-1] == "dog 0.87"


@pytest.mark.parametrize("box", [[-20, -9, 40, 50], [250, 150, 400, 300], [0, 0, 300, 200], [10, 20, 10, 20]])
def test_boxes_across_the_edge_are_cut(box: list[float]) -> None:
    drawn = draw_detections(blank(), found((box, 0.5, 0, 0)), NAMES)
    assert drawn.shape == (200, 300, 3) and (drawn != GREY).any()


def test_nothing_to_draw_leaves_the_image() -> None:
    assert (draw_detections(blank(), found(), NAMES) == GREY).all()
    outside = found(([400, 10, 500, 60], 0.9, 0, 0))
    assert (draw_detections(blank(), outside, NAMES) == GREY).all()


def test_lines_and_letters_grow_with_the_image() -> None:
    def share(factor: int) -> float:
        box = [50.0 * factor, 60.0 * factor, 150.0 * factor, 160.0 * factor]
        drawn = draw_detections(blank(200 * factor, 300 * factor), found((box, 0.9, 1, 0)), NAMES)
        return float((drawn != GREY).any(axis=2).mean())

    assert share(8) == pytest.approx(share(4), rel=0.15)


def test_truths_are_drawn_underneath() -> None:
    truths = np.array([[50.0, 60.0, 150.0, 160.0], [170.0, 60.0, 250.0, 160.0]])
    drawn = draw_detections(blank(), found(([50, 60, 150, 160], 0.9, 1, 0)), NAMES, truths_xyxy=truths)
    assert tuple(drawn[100, 50]) == colour(1)
    assert tuple(drawn[100, 170]) == (255, 255, 255)


def test_every_class_has_a_colour() -> None:
    names = [f"class {label}" for label in range(80)]
    detections = found(*(([3.0 * k, 40, 3.0 * k + 30, 90], 0.5, k, 0) for k in range(80)))
    assert (draw_detections(blank(), detections, names) != GREY).any()


@pytest.mark.parametrize(
    ("image", "detections", "message"),
    [
        (np.zeros((3, 20, 20), np.uint8), found(), r"\(H, W, 3\) uint8"),
        (np.zeros((20, 20, 3), np.float32), found(), r"\(H, W, 3\) uint8"),
        (blank(), found(([float("nan"), 0, 1, 1], 0.5, 0, 0)), "not finite"),
        (blank(), found(([0, 0, 1, 1], float("inf"), 0, 0)), "not finite"),
        (blank(), found(([0, 0, 1, 1], 0.5, 2, 0)), "label 2, but there are 2 class names"),
        (blank(), found(([0, 0, 1, 1], 0.5, -1, 0)), "label -1"),
    ],
)
def test_what_bad_input_gets(image: np.ndarray, detections: Detections, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_detections(image, detections, NAMES)


def test_threshold_and_scale() -> None:
    detections = found(([10, 20, 30, 40], 0.9, 1, 4), ([1, 1, 9, 9], 0.3, 0, 0), ([1, 1, 9, 9], 0.29, 0, 0))
    kept = best_detections(detections, 0.3)
    torch.testing.assert_close(kept.scores, torch.tensor([0.9, 0.3]))
    assert kept.anchors.tolist() == [4, 0]
    assert scale_detections(kept, (2.0, 0.5)).boxes_xyxy[0].tolist() == [20, 10, 60, 20]


def test_sheet_and_resize() -> None:
    images = [np.full((40 + index, 60, 3), index, dtype=np.uint8) for index in range(5)]
    sheet = contact_sheet(images)
    assert sheet.shape[0] < sheet.shape[1], "3 x 2"
    for index, image in enumerate(images):
        assert (sheet == index).all(axis=2).sum() == image.shape[0] * image.shape[1]
    assert resize(images[0], 120).shape == (80, 120, 3)
    assert resize(images[0], 30).shape == (20, 30, 3)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
