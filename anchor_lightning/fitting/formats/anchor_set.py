"""A set of anchor shapes with its frame: the levels of the head, the network input, and how images got to that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import torch
from torch import Tensor

from anchor_lightning.anchors.shapes import check_positive
from anchor_lightning.errors import UserError

Resized = Literal["stretch", "letterbox", "native"]
RESIZED: Final[dict[Resized, str]] = {"stretch": "stretched", "letterbox": "letterboxed", "native": "at native scale"}
"""How images got to the size of the network input, in a word: `letterbox` keeps their aspect, `native` their pixels."""
_FRAME: Final = re.compile(
    r"anchors for a network input(?: of (?P<width>\d{1,5}) x (?P<height>\d{1,5}) \(w x h\))?"
    rf"(?:, images (?P<resized>{'|'.join(RESIZED.values())}))?, written by anchor_lightning"
)
"""The first line of `AnchorSet.remarks`."""


@dataclass(frozen=True)
class AnchorSet:
    """Shapes with what is known of them.

    Args:
        wh: (A, 2) pixels of the network input, level after level, that of the smallest stride first.
        per_level: Number of shapes of each level of the detector's head; their sum is A. All on one level if empty.
        source: Where the shapes come from, in words.
        image_size: Height and width of the network input that they are meant for, if known.
        score: Measured values by their name.
        resize: How the images that they were fitted to got to that input, if known.

    Raises:
        UserError: There are no shapes, a side is not positive, or the levels hold another number of shapes.
    """

    wh: Tensor
    per_level: tuple[int, ...] = ()
    source: str = ""
    image_size: tuple[int, int] | None = None
    score: dict[str, float] = field(default_factory=dict)
    resize: Resized | None = None

    def __post_init__(self) -> None:
        if not len(self.wh):
            raise UserError("there are no shapes")
        check_positive(self.wh)
        if not self.per_level:
            object.__setattr__(self, "per_level", (len(self.wh),))
        if min(self.per_level) < 1 or sum(self.per_level) != len(self.wh):
            raise UserError(f"levels of {list(self.per_level)} shapes, but {len(self.wh)} shapes", argument="per_level")

    @property
    def levels(self) -> int:
        """Number of levels of the head."""
        return len(self.per_level)

    @property
    def level_of(self) -> list[int]:
        """The level of each shape, from 0."""
        return [level for level, num in enumerate(self.per_level) for _ in range(num)]

    @property
    def by_level(self) -> list[list[list[float]]]:
        """[[w, h], …] of every level in pixels, the smallest stride first, and in each the smallest area first."""
        parts = self.wh.split(list(self.per_level))
        return [part[part.prod(1).argsort(stable=True)].tolist() for part in parts]

    def in_levels(self, levels: int) -> AnchorSet:
        """The set on a head with so many levels: as it is if it has them, else divided by area, equally many each.

        Raises:
            UserError: The shapes cannot be divided equally.
        """
        if levels == self.levels:
            return self
        if levels < 1 or len(self.wh) % levels:
            raise UserError(
                f"{len(self.wh)} shapes do not divide equally among {levels} levels; the number of shapes counts "
                "all levels together, as in 9 shapes on 3 levels",
                argument="levels",
            )
        wh = self.wh[self.wh.prod(1).argsort(stable=True)]
        return replace(self, wh=wh, per_level=(len(wh) // levels,) * levels)

    def remarks(self) -> list[str]:
        """Frame, source and score in lines; `stated_frame` reads the first."""
        size = "" if self.image_size is None else f" of {self.image_size[1]} x {self.image_size[0]} (w x h)"
        resized = "" if self.resize is None else f", images {RESIZED[self.resize]}"
        score = ", ".join(f"{name} {value:.4f}" for name, value in self.score.items()) or "not measured"
        return [
            f"{len(self.wh)} anchors for a network input{size}{resized}, written by anchor_lightning",
            f"source: {' '.join((self.source or 'not stated').split())}",
            f"score: {score}",
        ]


def stated_frame(text: str) -> tuple[tuple[int, int] | None, Resized | None]:
    """Height and width of the network input, and the way of resizing, that `AnchorSet.remarks` noted in a text."""
    if (found := _FRAME.search(text)) is None:
        return None, None
    size = None if found["width"] is None else (int(found["height"]), int(found["width"]))
    return size, next((way for way, word in RESIZED.items() if word == found["resized"]), None)


def stack_levels(
    levels: Sequence[Sequence[Sequence[float]]], strides: Sequence[float] | None = None
) -> tuple[Tensor, tuple[int, ...]]:
    """(A, 2) shapes and their number on each level, of [[w, h], …] of every level.

    Args:
        levels: In any order.
        strides: What the result is sorted by, the smallest first; the mean areas if not given, or if two are equal.
    """
    parts = [torch.tensor(level, dtype=torch.float64).reshape(-1, 2) for level in levels]
    if strides is None or len(set(strides)) < len(strides):
        strides = [float(part.log().sum(1).mean()) for part in parts]
    parts = [part for _, part in sorted(zip(strides, parts, strict=True), key=lambda pair: pair[0])]
    return torch.cat(parts).float(), tuple(map(len, parts))
