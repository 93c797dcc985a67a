"""What the readers of all formats share: text files, names of classes, and records whose boxes can be used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.images import AS_STATED, UPRIGHT, ImageHeader, image_header
from anchor_lightning.errors import UserError
from anchor_lightning.messages import info, warn
from anchor_lightning.structures import GroundTruth

MAX_NAMED = 6  # classes in the line that says what a split holds
OUTSIDE_TOLERANCE = 1.0  # pixels outside of the image that are clipped without a warning: annotations are rounded


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; `Path.exists` raises for a name that no file can have."""
    return os.path.exists(path)  # noqa: PTH110


def distinct_names(names: list[str], where: str | None = None) -> list[str]:
    """The names of classes as given.

    Raises:
        UserError: There is none, or one comes twice; names `where`, by default the argument `class_names`.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        problem = f"{twice[0]!r} comes {names.count(twice[0])} times" if twice else "is empty"
        message = f"{problem}; give every class a name of its own."
        raise UserError(message, "class_names") if where is None else UserError(f"{where}: {message}")
    return names


def read_text(file: Path, default: str | None = None) -> str:
    """The text of a file in UTF-8, without the mark that some editors put first; `default` if there is no file.

    Raises:
        UserError: It cannot be read, or is not UTF-8; names it.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is no text in UTF-8 ({error.reason}, byte {error.start}). Convert it.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        if isinstance(error, FileNotFoundError) and default is not None:
            return default
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{file}: cannot be read ({why}). Restore or remove the file.") from None


class SplitReader:
    """Makes the records of one split, and says once what it found, swapped, clipped, dropped and left out."""

    def __init__(self) -> None:
        self.without_file = 0  # images for which there is no label file
        self.counts: Counter[str] = Counter()  # of boxes
        self._example = ""
        self._left_out: dict[str, list[str]] = {}
        self._remarks: dict[str, list[str]] = {}
        self._notes: list[str] = []

    def header(self, path: Path, skip_bad: bool, stated: tuple[int, int] | None = None) -> ImageHeader | None:
        """Size and orientation of an image.

        Where it is unreadable and bad images are skipped, the `stated` height and width; without, None for the report.
        """
        try:
            return image_header(path)
        except UserError as error:
            if not skip_bad:
                raise
            if stated is not None:
                return ImageHeader(*stated)
            self.leave_out("images that cannot be read", str(error))
            return None

    def leave_out(self, kind: str, what: str) -> None:
        """Counts a file that is left out, for the report: `kind` in the plural, and its name or why."""
        self._left_out.setdefault(kind, []).append(what)

    def remark(self, kind: str, what: str) -> None:
        """Counts a file of which something is to be said: `kind` in the plural with its verb, and its name."""
        self._remarks.setdefault(kind, []).append(what)

    def note(self, sentence: str) -> None:
        """Adds a sentence to the warnings of the report."""
        self._notes.append(sentence)

    def record(
        self,
        image_id: int,
        path: Path,
        name: str,
        size: tuple[int, int],
        boxes_xyxy: np.ndarray,
        labels: Sequence[int],
        where: str,
        ignore: Sequence[bool] | None = None,
        area: Sequence[float] | None = None,
        orientation: int = UPRIGHT,
    ) -> ImageRecord:
        """The record of one image with the boxes that can be used.

        Args:
            image_id: See `GroundTruth`.
            path: See `ImageRecord`.
            name: See `ImageRecord`.
            size: Height and width in pixels of the image, turned by its orientation.
            boxes_xyxy: (N, 4) in pixels of this image.
            labels: N labels.
            where: The image or file, for the report.
            ignore: N flags, False by default.
            area: N areas in pixels, those of the boxes by default.
            orientation: See `ImageRecord`.
        """
        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        kept = np.asarray(np.isfinite(boxes).all(axis=1))
        self._count("dropped, not a number", ~kept, where)
        ordered = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        self._count("corners swapped", kept & (ordered != boxes).any(axis=1), where)
        clipped = ordered.clip(0, np.tile(size[::-1], 2))
        empty = kept & ~(clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        self._count("dropped, no area in the image", empty, where)
        kept &= ~empty
        self._count("clipped to the image", kept & (np.abs(clipped - ordered) > OUTSIDE_TOLERANCE).any(axis=1), where)
        boxes = clipped[kept]
        ground_truth = GroundTruth(
            image_id=image_id,
            boxes_xyxy=boxes,
            labels=np.array(labels, dtype=np.int64)[kept],
            ignore=np.zeros(len(boxes), dtype=bool) if ignore is None else np.array(ignore, dtype=bool)[kept],
            area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) if area is None else np.array(area, dtype=np.float64)[kept],
        )
        return ImageRecord(path, name, *size, ground_truth, orientation)

    def _count(self, kind: str, which: np.ndarray, where: str) -> None:
        if which.any():
            self.counts[kind] += int(which.sum())
            self._example = self._example or where

    def report(self, split: str, records: Sequence[ImageRecord], class_names: Sequence[str]) -> None:
        """Says in one line, on one process, what a split holds, and warns of what was repaired, dropped or left out.

        Raises:
            UserError: All was left out, two records are of one image file, or all boxes lie within the first pixel.
        """
        left_out = [f"Left out {len(names)} {kind}; the first: {names[0]}" for kind, names in self._left_out.items()]
        if left_out and not records:
            raise UserError(
                f"{split} has no images that can be used. Restore what is left out, or give another split. "
                f"{', '.join(left_out)}"
            )
        twice = [path for path, count in Counter(record.path for record in records).items() if count > 1]
        if twice:
            raise UserError(f"{split}: {twice[0]} is listed more than once, as an image of its own. List it once.")
        boxes = [record.ground_truth.boxes_xyxy for record in records]
        if (all_boxes := np.concatenate([np.zeros((0, 4)), *boxes])).size and all_boxes.max() <= 1:
            raise UserError(
                f"{split}: no coordinate of its {len(all_boxes)} boxes is more than 1 pixel; they look like shares of "
                "the image's sides. Multiply them by its width and height."
            )
        with_boxes = sum(len(of_image) > 0 for of_image in boxes)
        none = f" ({self.without_file:,} have no label file)" if self.without_file else ""
        info(
            f"{split}: {len(records):,} images, {with_boxes:,} with boxes, {len(records) - with_boxes:,} "
            f"without{none}; {len(all_boxes):,} boxes; {_listed(class_names)}."
        )
        if turned := sum(record.orientation not in (UPRIGHT, AS_STATED) for record in records):
            self.note(f"{turned} images are turned as their EXIF orientation says, as labelling tools show them.")
        self._notes += left_out
        for kind, names in self._remarks.items():
            self.note(f"{len(names)} {kind} (the first: {names[0]}).")
        for note in self._notes:
            warn(f"{split}: {note}")
        if self.counts:
            counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
            warn(f"Boxes of {split}: {counts} (first in {self._example}).")


def _listed(class_names: Sequence[str]) -> str:
    more = f", {len(class_names) - MAX_NAMED:,} more" if len(class_names) > MAX_NAMED else ""
    return f"{len(class_names):,} class{'es' * (len(class_names) > 1)}: {', '.join(class_names[:MAX_NAMED])}{more}"
