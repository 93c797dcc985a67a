"""What is written on pictures: texts at boxes of which none covers another, and strips that explain a picture.

Colours are Okabe and Ito's, which people with colour blindness can tell apart, and two more. Shape letters: H, W height
and width of an image in pixels, h height of a strip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Okabe-Ito without black, which is hard to see on photographs; each with the ink that reads best on it. The last two
# are Tol's: nine anchors are as many as YOLOv3 has.
COLOURS: Final = (
    ("#E69F00", "black"),
    ("#56B4E9", "black"),
    ("#009E73", "white"),
    ("#F0E442", "black"),
    ("#0072B2", "white"),
    ("#D55E00", "white"),
    ("#CC79A7", "black"),
    ("#882255", "white"),
    ("#BBBBBB", "black"),
)
PIXELS_PER_LINE, PIXELS_PER_FONT = 250, 42
"""Pixels of the image's longer side for one of line thickness and of letter height."""
MIN_LINE, MIN_FONT = 2, 11
PAD: Final = 2
"""Pixels between a text and the edge of its ground."""
DASHES: Final = "dashes"

Frame = tuple[int, int, int, int]
"""First and last pixels of a box: left, top, right, bottom."""


def line_width(size: tuple[int, int]) -> int:
    """Thickness in pixels of a line on an image of this height and width."""
    return max(MIN_LINE, round(max(size) / PIXELS_PER_LINE))


def font_for(size: tuple[int, int]) -> ImageFont.FreeTypeFont:
    """The letters for an image of this height and width."""
    return _font(max(MIN_FONT, round(max(size) / PIXELS_PER_FONT)))


class Labels:
    """Writes texts at boxes, none over another: a text that finds no free place at its box is left out.

    Args:
        draw: Of the picture.
        size: Height and width of the picture in pixels.
        font: For all texts.
    """

    def __init__(self, draw: ImageDraw.ImageDraw, size: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
        self._draw, self._size, self._font = draw, size, font
        self._taken: list[Frame] = []

    def write(self, text: str, frame: Frame, colours: tuple[str, str], below: bool = False) -> bool:
        """Writes a line on a ground: above the frame if there is room, else in or beside one of its other corners.

        Args:
            text: One line.
            frame: Of the box.
            colours: Of the ground and of the letters.
            below: Try the frame's lower corners instead of the upper ones.

        Returns:
            Whether a place was free.
        """
        left, top, right, bottom = self._draw.textbbox((0, 0), text, font=self._font)
        wide, tall = math.ceil(right - left) + 2 * PAD, math.ceil(bottom - top) + 2 * PAD
        for x, y in self._places(frame, wide, tall, below):
            place = (x, y, x + wide - 1, y + tall - 1)
            if not any(_meet(place, other) for other in self._taken):
                self._taken.append(place)
                self._draw.rectangle(place, fill=colours[0])
                self._draw.text((x + PAD - left, y + PAD - top), text, fill=colours[1], font=self._font)
                return True
        return False

    def _places(self, frame: Frame, wide: int, tall: int, below: bool) -> list[tuple[int, int]]:
        """Upper left corners of a ground, the best first, all within the picture."""
        left, right = frame[0], frame[2] - wide + 1
        outside, inside = (frame[3] + 1, frame[3] - tall + 1) if below else (frame[1] - tall, frame[1])
        corners = [(left, outside), (left, inside), (right, outside), (right, inside)]
        height, width = self._size
        return [(max(0, min(x, width - wide)), max(0, min(y, height - tall))) for x, y in corners]


def _meet(a: Frame, b: Frame) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


class Entry(NamedTuple):
    """A text of a strip, and the sample before it: a colour for a square, `DASHES` for an annotated box, or none."""

    text: str
    sample: str | None = None


def strip(width: int, paragraphs: Sequence[Sequence[Entry]], size: tuple[int, int]) -> np.ndarray:
    """Texts in black on white, to be put below a picture.

    Args:
        width: Of the strip in pixels. A text that is wider is cut and ends in an ellipsis.
        paragraphs: Each starts a line; its entries go on in further lines where they do not fit.
        size: Height and width of the picture, which the letters suit.

    Returns:
        (h, width, 3) uint8 RGB; h depends on the texts' lengths alone.
    """
    font = font_for(size)
    ascent, descent = font.getmetrics()
    side, tall = ascent, ascent + descent + 2 * PAD
    drawing = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    placed: list[tuple[int, int, Entry]] = []
    row = -1
    for paragraph in paragraphs:
        row, x = row + 1, side // 2
        for entry in paragraph:
            offset = round(1.4 * side) if entry.sample else 0
            text = _shortened(entry.text, width - side - offset, drawing, font)
            wide = offset + math.ceil(drawing.textlength(text, font=font))
            if x > side // 2 and x + wide > width - side // 2:
                row, x = row + 1, side // 2
            placed.append((x, row, Entry(text, entry.sample)))
            x += wide + side
    picture = Image.new("RGB", (width, (row + 1) * tall), "white")
    draw = ImageDraw.Draw(picture)
    for x, row, entry in placed:
        if entry.sample:
            _sample(draw, entry.sample, (x, row * tall + PAD, x + side - 1, row * tall + PAD + side - 1))
        offset = round(1.4 * side) if entry.sample else 0
        draw.text((x + offset, row * tall + PAD), entry.text, fill="black", font=font)
    return np.array(picture)


def dashed(draw: ImageDraw.ImageDraw, frame: Frame, width: int) -> None:
    """A frame that shows on any ground and that no class's colour looks like."""
    left, top, right, bottom = frame
    dash = 4 * width
    draw.rectangle(frame, outline="black", width=width)
    for x in range(left, right + 1, 2 * dash):
        for y in (top, bottom - width + 1):
            draw.rectangle((x, y, min(x + dash - 1, right), y + width - 1), fill="white")
    for y in range(top, bottom + 1, 2 * dash):
        for x in (left, right - width + 1):
            draw.rectangle((x, y, x + width - 1, min(y + dash - 1, bottom)), fill="white")


def _sample(draw: ImageDraw.ImageDraw, sample: str, frame: Frame) -> None:
    if sample == DASHES:
        dashed(draw, frame, 1)
    else:
        draw.rectangle(frame, outline=sample, width=max(MIN_LINE, (frame[2] - frame[0]) // 4))


def _shortened(text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu along, which has the letters of more languages than PIL's own.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
