"""Detections drawn on their images, and strips of text that explain them: for loggers, run folder and `predict`.

A colour stands for a class, or for an anchor shape where these are shown; texts beside the boxes say the rest, as far
as there is room. Shape letters: H, W height and width of an image in pixels, N boxes of the image, M boxes of its
ground truth, A anchor shapes, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
import matplotlib
import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torchvision.utils import make_grid

from anchor_lightning.structures import Detections
from anchor_lightning.visualization.palette import CLASS_COLOURS, Colours, anchor_colour, ink_on

PLAIN: Final = Colours("white", "black")
NO_ANCHOR: Final = Colours("#888888", "white")
MAX_LABELS: Final = 20
"""Detections of an image that get a text, and boxes of its ground truth: with more nothing is left of the image."""
PIXELS_PER_LINE, MIN_LINE = 250, 2
"""Pixels of an image's longer side for one of line thickness, and the least thickness."""
PIXELS_PER_FONT, MIN_FONT = 42, 11  # The same for letter height
MARGIN: Final = 4  # Pixels around the pictures of a sheet
PAD: Final = 2  # Pixels between a text and the left and right edges of its ground

Text = tuple[str, Colours]
Frame = tuple[int, int, int, int]  # Pixels of a box: left and top, and the first right of it and below it


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    anchors_wh: np.ndarray | None = None,
    ground_truth_xyxy: np.ndarray | None = None,
    ground_truth_labels: Sequence[int] = (),
) -> np.ndarray:
    """A copy of an image with its detections: a frame in the colour of the class, and `class 0.87` above it.

    Lines and letters grow with the image. The best detections lie on top, and the best 20 get a text where it covers no
    better one's. What lies outside the image is cut off.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: N boxes in pixels of `image` (continuous, 0-based), in any order.
        class_names: C names; position is the label.
        anchors_wh: (A, 2) pixels of the network input, to show which anchor each box came from: frames have the
            anchor's colour, texts end in `#k` with k from 0, and a strip below the image lists the shapes.
        ground_truth_xyxy: (M, 4) boxes in pixels of `image`, drawn underneath, in black and white dashes.
        ground_truth_labels: M labels, whose names are written on white where detections leave room; none if not given.

    Returns:
        (H, W, 3) uint8 RGB; with `anchors_wh` higher by a strip, whose height depends on W, H and the shapes alone.

    Raises:
        ValueError: The image is not (H, W, 3) uint8, a box or score is not finite, or a label has no name.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an image as (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    if not (detections.boxes_xyxy.isfinite().all() and detections.scores.isfinite().all()):
        raise ValueError("a detection has a box or score that is not finite, so it cannot be drawn")
    wrong = [label for label in detections.labels.tolist() if not 0 <= label < len(class_names)]
    if wrong:
        raise ValueError(f"a detection has the label {wrong[0]}, but there are {len(class_names)} class names")
    picture = image.copy()
    height, width = image.shape[:2]
    line = max(MIN_LINE, round(max(height, width) / PIXELS_PER_LINE))
    ground_truth = [_frame(box, picture) for box in ([] if ground_truth_xyxy is None else ground_truth_xyxy.tolist())]
    for frame in filter(None, ground_truth):
        _draw_frame(picture, frame, max(1, line // 2), None)
    frames = [_frame(box, picture) for box in detections.boxes_xyxy.tolist()]
    best_first = detections.scores.argsort(stable=True, descending=True).tolist()
    shown = [(frame, index) for index in best_first if (frame := frames[index]) is not None]
    rows = zip(detections.labels.tolist(), detections.scores.tolist(), detections.anchors.tolist(), strict=True)
    texts = [_text(class_names[row[0]], *row, anchors_wh is not None) for row in rows]
    for frame, index in reversed(shown):
        _draw_frame(picture, frame, line, ImageColor.getrgb(texts[index][1].ground))
    # After all frames: none may cross a text.
    taken: list[Frame] = []
    for frame, index in shown[:MAX_LABELS]:
        _write(picture, texts[index], frame, taken)
    num_labelled = len(taken)
    for frame_or_none, label in list(zip(ground_truth, ground_truth_labels, strict=False))[:MAX_LABELS]:
        if frame_or_none is not None:
            _write(picture, (class_names[label], PLAIN), frame_or_none, taken, below=True)
    if anchors_wh is None:
        return picture
    shapes = [(f"#{k} {w:.0f} x {h:.0f}", _of_anchor(k)) for k, (w, h) in enumerate(anchors_wh.tolist())]
    count = f"{len(shown)} box{'es' * (len(shown) != 1)}"
    count += f", {num_labelled} of the best with text" * (num_labelled < len(shown))
    # In a line of its own: its digits must not change the height, the same for all frames of a video.
    paragraphs = [[("anchor, width x height at the network input:", PLAIN), *shapes], [(count, PLAIN)]]
    return np.vstack([picture, strip(width, paragraphs, max(height, width))])


def best_detections(detections: Detections, threshold: float, above: bool = False) -> Detections:
    """The detections that score at least `threshold`, in their order; with `above` only those that score more."""
    kept = detections.scores > threshold if above else detections.scores >= threshold
    return Detections(*(values[kept] for values in vars(detections).values()))


def resize(image: np.ndarray, longer_side: int) -> np.ndarray:
    """An (H, W, 3) image whose longer side is `longer_side` pixels, in the same proportions."""
    scale = longer_side / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)


def scale_detections(detections: Detections, scale: tuple[float, float]) -> Detections:
    """Detections whose (N, 4) boxes are stretched by a factor for x and one for y."""
    return replace(detections, boxes_xyxy=detections.boxes_xyxy * detections.boxes_xyxy.new_tensor(scale * 2))


def contact_sheet(images: Sequence[np.ndarray]) -> np.ndarray:
    """One or more (H, W, 3) uint8 images of any sizes on white, in `sheet_columns` columns."""
    sides = [max(image.shape[side] for image in images) for side in (0, 1)]
    cells = torch.full((len(images), 3, *sides), 255, dtype=torch.uint8)
    for cell, image in zip(cells, images, strict=True):
        cell[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    grid = make_grid(list(cells), nrow=sheet_columns(len(images)), padding=MARGIN, pad_value=255)
    return np.asarray(grid.permute(1, 2, 0))


def sheet_columns(num_images: int) -> int:
    """The columns that leave fewest cells of a sheet empty: of those from a square to four times as wide as high."""
    root = math.sqrt(num_images)
    return min(range(math.ceil(root), math.floor(2 * root) + 1), key=lambda columns: -num_images % columns)


def save_picture(image: np.ndarray, path: Path) -> None:
    """Writes an (H, W, 3) uint8 RGB image in the format of the path's suffix."""
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())


def save_sheet(image: np.ndarray, path: Path) -> None:
    """Writes an (H, W, 3) uint8 RGB image as PNG of 256 colours: half the bytes, or less, where it holds photographs.

    The colours of classes, black and white are kept; a median cut of every third pixel gives the others.
    """
    drawn = [value for colours in (*CLASS_COLOURS, PLAIN) for name in colours for value in ImageColor.getrgb(name)]
    sample = Image.fromarray(np.ascontiguousarray(image[::3, ::3]))
    others = sample.quantize(256 - len(drawn) // 3, Image.Quantize.MEDIANCUT).getpalette()
    assert others is not None
    palette = Image.new("P", (1, 1))
    palette.putpalette(drawn + others[: 768 - len(drawn)])
    Image.fromarray(image).quantize(palette=palette, dither=Image.Dither.NONE).save(path, format="PNG")


def rounded_down(score: float) -> str:
    """Two significant digits below a score in [0, 1], which as a threshold show its box; "0" for 0."""
    if score <= 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(score)) - 1)
    return f"{(math.ceil(score / step - 1e-6) - 1) * step:.2g}"


def text_patch(text: Text, longer_side: int) -> np.ndarray:
    """A line of text on its ground, (h, w, 3) uint8 RGB, in letters for a picture with this longer side."""
    line, colours = text
    font = _font(longer_side)
    patch = Image.new("RGB", (_text_width(line, longer_side), sum(font.getmetrics())), colours.ground)
    ImageDraw.Draw(patch).text((PAD, 0), line, fill=colours.ink, font=font)
    return np.array(patch)


def strip(width: int, paragraphs: Sequence[Sequence[Text]], longer_side: int) -> np.ndarray:
    """Texts on white, to be put below a picture.

    Args:
        width: Of the strip in pixels. A text that is wider goes on in further lines, and a word that is wider is cut.
        paragraphs: Each starts a line; its texts go on in further lines where they do not fit.
        longer_side: Of the picture, which the letters suit.
    """
    lines: list[np.ndarray] = []
    for paragraph in paragraphs:
        x = width
        for piece in (piece for text in paragraph for piece in _pieces(text, width - 2 * MARGIN, longer_side)):
            patch = text_patch(piece, longer_side)
            if x > MARGIN and x + patch.shape[1] > width - MARGIN:
                lines.append(np.full((patch.shape[0] + PAD, width, 3), 255, dtype=np.uint8))
                x = MARGIN
            lines[-1][: patch.shape[0], x : x + patch.shape[1]] = patch[:, : width - x]
            x += patch.shape[1] + patch.shape[0] // 2
    return np.vstack(lines)


def _pieces(text: Text, width: int, longer_side: int) -> list[Text]:
    """The text, divided between words where it is wider than a width in pixels."""
    line, colours = text
    pieces: list[str] = []
    for word in line.split(" "):
        longer = f"{pieces[-1]} {word}" if pieces else word
        if pieces and _text_width(longer, longer_side) <= width:
            pieces[-1] = longer
        else:
            pieces.append(word)
    return [(piece, colours) for piece in pieces]


def _text(name: str, label: int, score: float, anchor: int, show_anchors: bool) -> Text:
    """What stands at a box, and its colours; the anchor is -1 where the detector does not say."""
    text = f"{name} {score:.2f}"
    if not show_anchors:
        return text, CLASS_COLOURS[label % len(CLASS_COLOURS)]
    return (f"{text} #{anchor}", _of_anchor(anchor)) if anchor >= 0 else (text, NO_ANCHOR)


def _of_anchor(index: int) -> Colours:
    return Colours(anchor_colour(index), ink_on(anchor_colour(index)))


def _frame(box_xyxy: list[float], picture: np.ndarray) -> Frame | None:
    """The pixels of a box within a picture, one at least; None if it lies outside."""
    x1, y1, x2, y2 = box_xyxy
    height, width = picture.shape[:2]
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height or x2 < x1 or y2 < y1:
        return None
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    return left, top, max(left + 1, min(width, math.ceil(x2))), max(top + 1, min(height, math.ceil(y2)))


def _draw_frame(picture: np.ndarray, frame: Frame, line: int, colour: tuple[int, ...] | None) -> None:
    """Lines along a box's first and last pixels, in place; without a colour in dashes, which show on any ground."""
    left, top, right, bottom = frame
    edge = np.ones((bottom - top, right - left), dtype=bool)
    edge[line:-line, line:-line] = False
    dashes = 0 if colour else np.where(sum(edge.nonzero()) // (4 * line) % 2, 0, 255)[:, None]
    picture[top:bottom, left:right][edge] = colour or dashes


def _write(picture: np.ndarray, text: Text, frame: Frame, taken: list[Frame], below: bool = False) -> None:
    """Writes a text at a corner of a box, best above it, where it covers none of the `taken` places; in place.

    Left out if every place would cover another text. With `below` the lower corners are tried, not the upper ones.
    """
    patch = text_patch(text, max(picture.shape[:2]))[: picture.shape[0], : picture.shape[1]]
    tall, wide = patch.shape[:2]
    left, right = frame[0], frame[2] - wide
    outside, inside = (frame[3], frame[3] - tall) if below else (frame[1] - tall, frame[1])
    for x, y in ((left, outside), (left, inside), (right, outside), (right, inside)):
        x, y = max(0, min(x, picture.shape[1] - wide)), max(0, min(y, picture.shape[0] - tall))
        if all(x >= t[2] or t[0] >= x + wide or y >= t[3] or t[1] >= y + tall for t in taken):
            taken.append((x, y, x + wide, y + tall))
            picture[y : y + tall, x : x + wide] = patch
            return


def _text_width(line: str, longer_side: int) -> int:
    """Of its ground, in pixels."""
    return math.ceil(_font(longer_side).getlength(line)) + 2 * PAD


def _font(longer_side: int) -> ImageFont.FreeTypeFont:
    """For a picture with this longer side."""
    return _font_of_size(max(MIN_FONT, round(longer_side / PIXELS_PER_FONT)))


@lru_cache(maxsize=8)
def _font_of_size(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu along, which has the letters of more languages than PIL's own.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
