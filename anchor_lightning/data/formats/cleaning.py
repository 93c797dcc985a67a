"""Ground truth from the boxes of annotation files: repaired or dropped where invalid, reported once a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from anchor_lightning.data.images import image_size_of
from anchor_lightning.errors import UserError
from anchor_lightning.structures import GroundTruth

OUTSIDE_TOLERANCE = 1.0
"""Boxes that leave the image by at most so many pixels are clipped without a word: annotations are rounded."""


class BoxCleaner:
    """Repairs of the boxes of one split, and its images that cannot be read.

    Reversed corners are swapped and boxes that leave the image are clipped to it. Boxes with a value that is not
    finite, and those without area in the image, are dropped.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._example = ""
        self._left_out: list[str] = []

    def ground_truth(
        self,
        image_id: int,
        boxes_xyxy: np.ndarray,
        labels: Sequence[int],
        size: tuple[int, int],
        where: str,
        ignore: Sequence[bool] | None = None,
        area: Sequence[float] | None = None,
    ) -> GroundTruth:
        """The ground truth of one image, of the boxes that can be used.

        Args:
            image_id: See `GroundTruth`, and so is `ignore`, by default False for all.
            boxes_xyxy: (N, 4) in pixels of the stored image.
            labels: N labels.
            size: Height and width of the stored image in pixels.
            where: The image or file, for the report.
            ignore: N flags.
            area: N areas in pixels; those of the boxes by default.
        """
        boxes, kept = self.clean(boxes_xyxy, *size, where)
        return GroundTruth(
            image_id=image_id,
            boxes_xyxy=boxes,
            labels=np.array(labels, dtype=np.int64)[kept],
            ignore=np.zeros(len(boxes), dtype=bool) if ignore is None else np.array(ignore, dtype=bool)[kept],
            area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) if area is None else np.array(area, dtype=np.float64)[kept],
        )

    def image_size(self, path: Path, skip_bad: bool) -> tuple[int, int] | None:
        """Height and width of an image; None, for the report, where it cannot be read and bad images are skipped."""
        try:
            return image_size_of(path)
        except UserError as error:
            if not skip_bad:
                raise
            self._left_out.append(str(error))
            return None

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
        """Warns, on one process, of what was repaired, dropped and left out in a split, if anything was."""
        if self._left_out:
            rank_zero_warn(f"Left out {len(self._left_out)} images of {split}; the first: {self._left_out[0]}")
        if self.counts:
            counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
            rank_zero_warn(f"Boxes of {split}: {counts} (first in {self._example}).")
