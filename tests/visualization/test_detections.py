from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import ImageColor, ImageDraw

from anchor_lightning.structures import Detections
from anchor_lightning.visualization import detections as drawing
from anchor_lightning.visualization.detections import (
    MAX_LABELS,
    PLAIN,
    best_detections,
    contact_sheet,
    draw_detections,
    resize,
    rounded_down,
    save_picture,
    save_sheet,
    scale_detections,
    sheet_columns,
    strip,
)
from anchor_lightning.visualization.palette import CLASS_COLOURS, anchor_colour, ink_on

NAMES = ["cat", "dog"]
GREY = 90
SHAPES = np.array([[20.0, 30.0], [40.4, 19.6], [50.0, 50.0], [8.0, 8.0]])


def found(*rows: tuple[list[float], float, int, int]) -> Detections:
    boxes, scores, labels, anchors = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(anchors, dtype=torch.int64),
    )


def colour(label: int) -> tuple[int, ...]:
    return ImageColor.getrgb(CLASS_COLOURS[label % len(CLASS_COLOURS)].ground)


def of_anchor(index: int) -> tuple[int, ...]:
    return ImageColor.getrgb(anchor_colour(index))


def blank(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def test_a_frame_covers_the_first_and_last_pixels_of_its_box() -> None:
    """A box from 50 to 150 holds the pixels 50 to 149."""
    image = blank()
    box = [50, 60, 150, 160]
    drawn = draw_detections(image, found((box, 0.9, 1, 0), (box, 0.5, 0, 0)), NAMES)
    changed = (drawn != GREY).any(axis=2)
    assert changed[100].nonzero()[0].tolist() == [50, 51, 148, 149], "two pixels of line on either side"
    assert changed[:, 149].nonzero()[0].max() == 159
    assert tuple(drawn[100, 50]) == colour(1), "the better one lies on top"
    assert (image == GREY).all(), "the image handed in stays as it was"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written on pictures, in order."""
    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, xy, text, **_: texts.append(text))
    return texts


def test_text_stands_above_its_box_and_names_class_and_score(written: list[str]) -> None:
    detections = found(([50, 60, 150, 160], 0.874, 1, 3), ([1, 1, 9, 9], 0.3, 0, 0))
    drawn = draw_detections(blank(), detections, NAMES)
    assert written == ["dog 0.87", "cat 0.30"]
    assert tuple(drawn[55, 55]) == colour(1), "its ground has the colour of the class"


def test_anchors_are_shown_by_number_colour_and_a_strip(written: list[str]) -> None:
    detections = found(([50, 60, 150, 160], 0.874, 1, 3), ([170, 60, 250, 160], 0.3, 0, 0), ([1, 1, 9, 9], 0.2, 0, -1))
    drawn = draw_detections(blank(), detections, NAMES, SHAPES)
    assert tuple(drawn[100, 50]) == tuple(drawn[55, 55]) == of_anchor(3), "the anchor's colour, not the class's"
    assert written[:3] == ["dog 0.87 #3", "cat 0.30 #0", "cat 0.20"], "a detector may not say which anchor it was"
    assert written[3].startswith("anchor") and written[4:8] == ["#0 20 x 30", "#1 40 x 20", "#2 50 x 50", "#3 8 x 8"]
    assert written[8] == "3 boxes"
    assert drawn.shape[0] > 200 and drawn.shape[1:] == (300, 3), "below the image, which keeps its coordinates"
    assert (drawn[200:] == of_anchor(2)).all(axis=2).any(), "shapes without a box stand there, too"


def crowd(num: int, side: int = 60) -> Detections:
    """Boxes all over a 600 x 900 image, the worst first, so that their order cannot help."""
    rng = np.random.default_rng(0)
    corners = rng.uniform((0, 0), (900 - side, 600 - side), (num, 2)).tolist()
    scores = np.linspace(0.1, 0.9, num).tolist()
    return found(*(([x, y, x + side, y + side], s, 0, 1) for (x, y), s in zip(corners, scores, strict=True)))


def test_of_many_boxes_only_the_best_are_labelled_and_it_says_so(written: list[str]) -> None:
    drawn = draw_detections(blank(600, 900), crowd(200), NAMES, SHAPES)
    labels = [text for text in written if text.startswith("cat")]
    assert len(labels) == MAX_LABELS and labels[0] == "cat 0.90 #1"
    assert min(float(text.split()[1]) for text in labels) > 0.8
    assert (with_text := re.match(r"200 boxes, (\d+) of the best", written[-1]))
    assert MAX_LABELS // 2 < int(with_text[1]) < MAX_LABELS
    few = draw_detections(blank(600, 900), found(), NAMES, SHAPES)
    assert few.shape == drawn.shape, "the frames of a video have one size"


@pytest.mark.parametrize(("num", "side"), [(200, 60), (40, 300), (15, 590)])
def test_no_text_covers_another_and_every_box_has_its_frame(
    monkeypatch: pytest.MonkeyPatch, num: int, side: int
) -> None:
    """The texts are patches of one size in black, which nothing else has: they cover a multiple of its pixels."""
    patch = np.zeros((17, 71, 3), np.uint8)
    monkeypatch.setattr(drawing, "text_patch", lambda *_: patch)
    detections = crowd(num, side)
    drawn = draw_detections(blank(600, 900), detections, NAMES)
    texts, remainder = divmod(int((drawn == 0).all(axis=2).sum()), patch[:, :, 0].size)
    assert remainder == 0 and 3 < texts <= min(num, MAX_LABELS)
    for x1, y1, _, y2 in detections.boxes_xyxy.int().tolist()[::20]:
        assert (drawn[y1 + 5 : y2 - 5, x1 : x1 + 3] == colour(0)).all(axis=2).any()


@pytest.mark.parametrize("box", [[-20, -9, 40, 50], [250, 150, 400, 300], [0, 0, 300, 200], [10, 20, 10, 20]])
def test_boxes_across_the_edge_are_cut(box: list[float]) -> None:
    drawn = draw_detections(blank(), found((box, 0.5, 0, 0)), NAMES)
    assert drawn.shape == (200, 300, 3) and (drawn != GREY).any()


def test_nothing_to_draw_leaves_the_image() -> None:
    for detections in (found(), found(([400, 10, 500, 60], 0.9, 0, 0))):
        assert (draw_detections(blank(), detections, NAMES) == GREY).all()


def test_lines_and_letters_grow_with_the_image() -> None:
    shares = []
    for factor in (4, 8):
        box = [50.0 * factor, 60.0 * factor, 150.0 * factor, 160.0 * factor]
        drawn = draw_detections(blank(200 * factor, 300 * factor), found((box, 0.9, 1, 0)), NAMES)
        shares.append((drawn != GREY).any(axis=2).mean())
    assert shares[1] == pytest.approx(shares[0], rel=0.15)
    heights = [drawing.text_patch(("dog", PLAIN), 1000 * factor).shape[0] for factor in (4, 8)]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.05)


def test_ground_truth_is_drawn_underneath_with_its_names_on_white(written: list[str]) -> None:
    ground_truths = np.array([[50.0, 60.0, 150.0, 160.0], [170.0, 60.0, 250.0, 160.0], [400, 0, 500, 90]])
    detections = found(([50, 60, 150, 160], 0.9, 1, 0))
    drawn = draw_detections(blank(), detections, NAMES, None, ground_truths, [0, 1, 1])
    assert tuple(drawn[100, 50]) == colour(1)
    edge = drawn[60:160, 170]
    assert {tuple(pixel) for pixel in edge.tolist()} == {(0, 0, 0), (255, 255, 255)}, "in dashes"
    assert written == ["dog 0.90", "cat", "dog"], "the third lies outside"
    assert tuple(drawn[162, 52]) == (255, 255, 255), "below the box, where no detection's text stands"


@pytest.mark.parametrize(
    ("image", "detections", "message"),
    [
        (np.zeros((3, 20, 20), np.uint8), found(), r"\(H, W, 3\) uint8"),
        (blank(), found(([float("nan"), 0, 1, 1], 0.5, 0, 0)), "not finite"),
        (blank(), found(([0, 0, 1, 1], float("inf"), 0, 0)), "not finite"),
        (blank(), found(([0, 0, 1, 1], 0.5, 2, 0)), "label 2, but there are 2 class names"),
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


def test_a_score_rounded_down_is_a_threshold_that_shows_it() -> None:
    for score in (1.0, 0.999, 0.29996, 0.3, 0.1, 0.05, 0.0412, 0.00721, 3e-6):
        assert 0.8 * score < float(rounded_down(score)) < score
    assert rounded_down(0.0) == "0"


def test_a_strip_wraps_and_cuts_its_texts(written: list[str]) -> None:
    short = strip(400, [[("one", CLASS_COLOURS[0]), ("two", PLAIN)]], 400)
    assert short.shape[1] == 400 and (short == colour(0)).all(axis=2).any()
    assert strip(50, [[("one", CLASS_COLOURS[0]), ("two", PLAIN)]], 400).shape == (2 * short.shape[0], 50, 3)
    assert strip(120, [[("a-name-that-is-much-too-long-for-it", PLAIN)]], 400).shape == (short.shape[0], 120, 3)
    assert written == [*["one", "two"] * 2, "a-name-that-is-much-too-long-for-it"]
    written.clear()
    sentence = "dashed: ground truth, class on white"
    assert strip(150, [[(sentence, PLAIN)]], 640).shape[0] > short.shape[0]
    assert len(written) > 1 and " ".join(written) == sentence, "it goes on in further lines"


def test_a_strip_leaves_a_margin_and_cuts_no_ground() -> None:
    """The grounds of the texts end before the edges, to the last pixel."""
    texts = [("dashed: ground truth", CLASS_COLOURS[0]), ("car", CLASS_COLOURS[0]), ("cat", CLASS_COLOURS[0])]
    for width in (150, 170, 400):
        drawn = strip(width, [texts], 640)
        assert (drawn[:, :4] == 255).all() and (drawn[:, -4:] == 255).all()


def test_ink_reads_on_its_ground() -> None:
    """The contrast of WCAG 2 is at least 4.5 for every anchor; black on white and white on black."""
    assert ink_on("#ffffff") == "black" and ink_on("#000000") == "white"
    assert ink_on("#0072B2") == "white" and ink_on("#E69F00") == "black"


def test_sheet_and_resize() -> None:
    images = [np.full((40 + index, 60, 3), index, dtype=np.uint8) for index in range(5)]
    sheet = contact_sheet(images)
    assert sheet.shape[0] < sheet.shape[1], "3 x 2"
    for index, image in enumerate(images):
        assert (sheet == index).all(axis=2).sum() == image.shape[0] * image.shape[1]
    assert resize(images[0], 120).shape == (80, 120, 3)
    assert resize(images[0], 30).shape == (20, 30, 3)
    assert contact_sheet(images[:1]).shape[1] >= 60, "a single image"


def test_columns_leave_no_cell_empty_or_one() -> None:
    columns = [sheet_columns(num) for num in range(1, 17)]
    assert columns == [1, 2, 3, 2, 3, 3, 4, 4, 3, 5, 4, 4, 7, 7, 5, 4]
    empty = [-num % across for num, across in enumerate(columns, start=1)]
    assert max(empty) == 1 and {num for num, left in enumerate(empty, start=1) if left} == {5, 7, 11, 13}


def test_a_sheet_of_photographs_is_small_and_keeps_the_colours_of_thin_frames(tmp_path: Path) -> None:
    """Eight noisy gradients in 480 x 360 pixels, as a camera gives them."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 480)[None, :, None] * np.ones((360, 1, 3)) * rng.uniform(0.3, 1, (8, 1, 1, 3))
    photographs = (ramp + cv2.blur(rng.normal(0, 12, (360, 480, 3)), (3, 3))).clip(0, 255).astype(np.uint8)
    tiles = [
        draw_detections(photo, found(([50, 60, 150, 160], 0.9, label % 2, 0)), NAMES)
        for label, photo in enumerate(photographs)
    ]
    sheet = contact_sheet(tiles)
    save_sheet(sheet, path := tmp_path / "sheet.png")
    save_picture(sheet, whole := tmp_path / "whole.png")
    assert path.stat().st_size < 1_000_000 and 2 * path.stat().st_size < whole.stat().st_size
    stored = cv2.imread(str(path))[:, :, ::-1].astype(int)
    assert stored.shape == sheet.shape and np.abs(stored - sheet).mean() < 8
    for label in (0, 1):
        frame = (sheet == colour(label)).all(axis=2)
        assert frame.sum() > 500 and (stored[frame] == colour(label)).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_is_saved_in_the_format_of_its_name(tmp_path: Path, suffix: str) -> None:
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, :, 0] = 200
    save_picture(image, path := tmp_path / f"a{suffix}")
    assert np.abs(cv2.imread(str(path))[:, :, ::-1].astype(int) - image).max() < 4, "red stays red"
    assert path.read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"\xff\xd8")
