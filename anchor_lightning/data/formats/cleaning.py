"""What happens to annotated boxes that cannot be: repaired or dropped, counted, and reported once a split."""

from __future__ import annotations

from collections import Counter

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

OUTSIDE_TOLERANCE = 1.0
"""Boxes that leave the image by at most so many pixels are clipped without a word: annotations are rounded."""


class BoxCleaner:
    """Repairs the boxes of one split and remembers what it did.

    Reversed corners are swapped and boxes that leave the image are clipped to it. Boxes with a value that is not
    finite, and those without area in the image, are dropped.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._example = ""

    def clean(self, boxes_xyxy: np.ndarray, height: int, width: int, where: str) -> tuple[np.ndarray, np.ndarray]:
        """The boxes that can be used.

        Args:
            boxes_xyxy: (N, 4) in pixels of the stored image.
            height: Height of the stored image in pixels.
            width: Width of the stored image in pixels.
            where: The image or file, for the report.

        Returns:
            (K, 4) float64 boxes with left < right and top < bottom inside the image, and (N,) bool: which they are.
        """
        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        kept = np.asarray(np.isfinite(boxes).all(axis=1))
        self._count("dropped, not a number", ~kept, where)
        low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
        ordered = np.concatenate([low, high], axis=1)
        self._count("corners swapped", kept & (ordered != boxes).any(axis=1), where)
        clipped = ordered.clip(0, (width, height, width, height))
        empty = kept & ~(clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        self._count("dropped, no area in the image", empty, where)
        kept &= ~empty
        self._count("clipped to the image", kept & (np.abs(clipped - ordered) > OUTSIDE_TOLERANCE).any(axis=1), where)
        return clipped[kept], kept

    def _count(self, kind: str, which: np.ndarray, where: str) -> None:
        count = int(which.sum())
        if count:
            self.counts[kind] += count
            self._example = self._example or where

    def report(self, split: str) -> None:
        """Warn, on one process, of what was repaired and dropped in a split, if anything was."""
        if self.counts:
            counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
            rank_zero_warn(f"Boxes of {split}: {counts} (first in {self._example}).")
