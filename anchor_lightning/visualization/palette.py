"""The colour of each anchor shape, the same in every picture, and the colours of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from PIL import ImageColor

MAX_NAMED: Final = 15
"""Shapes that are told apart one by one; a larger set with several levels is coloured by level."""


class Colours(NamedTuple):
    """A ground, and the ink that reads best on it."""

    ground: str
    ink: str


# Of anchors and of lines: Okabe and Ito's, which people with colour blindness can tell apart, without black and yellow,
# which are lost on photographs and on white. The last three are Tol's: nine anchors are as many as YOLOv3 has.
LINE_COLOURS: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#999933",
    "#332288",
)
CLASS_COLOURS: Final = (
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


def anchor_colour(index: int) -> str:
    """The colour `#rrggbb` of the anchor with an index, 0 or more; after nine they repeat."""
    return LINE_COLOURS[index % len(LINE_COLOURS)]


def anchor_colours(num_anchors: int, num_per_level: Sequence[int] = ()) -> list[str]:
    """One colour for each anchor of a set: that of its index, or of its level where `is_by_level`.

    Args:
        num_anchors: Shapes of the set.
        num_per_level: How many of them each level has, finest level first; empty where there are no levels.
    """
    if not is_by_level(num_anchors, num_per_level):
        return [anchor_colour(index) for index in range(num_anchors)]
    return [anchor_colour(level) for level, count in enumerate(num_per_level) for _ in range(count)]


def anchor_names(num_anchors: int, num_per_level: Sequence[int] = ()) -> list[str]:
    """One name for each anchor of a legend, to go with `anchor_colours`: of a level the first alone, the others ""."""
    if not is_by_level(num_anchors, num_per_level):
        return [f"anchor {index}" for index in range(num_anchors)]
    return [f"level {level}" * (index == 0) for level, count in enumerate(num_per_level) for index in range(count)]


def is_by_level(num_anchors: int, num_per_level: Sequence[int]) -> bool:
    """Whether a set is coloured by level: it has several, and too many shapes to tell each apart."""
    return num_anchors > MAX_NAMED and len(num_per_level) > 1 and sum(num_per_level) == num_anchors


def ink_on(ground: str) -> str:
    """`black` or `white`, whichever has the higher contrast on a colour `#rrggbb` (the ratio of WCAG 2)."""
    linear = [(value / 255) ** 2.2 for value in ImageColor.getrgb(ground)[:3]]
    luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    # The ratios (1 + 0.05) / (L + 0.05) and (L + 0.05) / 0.05 are equal at L = 0.179.
    return "black" if luminance > 0.179 else "white"
