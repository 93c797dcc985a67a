"""Lines of text for pictures, and strips of them that explain a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont


class Colours(NamedTuple):
    """A ground, and the ink that reads best on it."""

    ground: str
    ink: str


# Okabe and Ito's, which people with colour blindness can tell apart, without black, which is hard to see on
# photographs. The last two are Tol's: nine anchors are as many as YOLOv3 has.
COLOURS: Final = (
    Colours("#E69F00", "black"),
    Colours("#56B4E9", "black"),
    Colours("#009E73", "white"),
    Colours("#F0E442", "black"),
    Colours("#0072B2", "white"),
    Colours("#D55E00", "white"),
    Colours("#CC79A7", "black"),
    Colours("#882255", "white"),
    Colours("#BBBBBB", "black"),
)
PLAIN: Final = Colours("white", "black")
PIXELS_PER_FONT, MIN_FONT = 42, 11
"""Pixels of a picture's longer side for one of letter height, and the least height."""
PAD: Final = 2
"""Pixels between a text and the left and right edges of its ground."""

Text = tuple[str, Colours]


def text_patch(text: Text, longer_side: int) -> np.ndarray:
    """A line of text on its ground, (h, w, 3) uint8 RGB, in letters for a picture with this longer side."""
    line, colours = text
    font = _font(max(MIN_FONT, round(longer_side / PIXELS_PER_FONT)))
    patch = Image.new("RGB", (math.ceil(font.getlength(line)) + 2 * PAD, sum(font.getmetrics())), colours.ground)
    ImageDraw.Draw(patch).text((PAD, 0), line, fill=colours.ink, font=font)
    return np.array(patch)


def strip(width: int, paragraphs: Sequence[Sequence[Text]], longer_side: int) -> np.ndarray:
    """Texts on white, to be put below a picture.

    Args:
        width: Of the strip in pixels. A text that is wider is cut.
        paragraphs: Each starts a line; its texts go on in further lines where they do not fit.
        longer_side: Of the picture, which the letters suit.

    Returns:
        (h, width, 3) uint8 RGB; h depends on the texts' widths alone.
    """
    placed: list[tuple[int, int, np.ndarray]] = []
    row = -1
    for paragraph in paragraphs:
        row, x = row + 1, 0
        for patch in (text_patch(text, longer_side) for text in paragraph):
            if x and x + patch.shape[1] > width:
                row, x = row + 1, 0
            placed.append((row, x, patch))
            x += patch.shape[1] + patch.shape[0] // 2
    tall = placed[0][2].shape[0] + PAD  # every line of a font has one height
    picture = np.full(((row + 1) * tall, width, 3), 255, dtype=np.uint8)
    for row, x, patch in placed:
        picture[row * tall : row * tall + patch.shape[0], x : x + patch.shape[1]] = patch[:, : width - x]
    return picture


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu along, which has the letters of more languages than PIL's own.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
