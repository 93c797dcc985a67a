"""The lines of YOLO's label files: boxes, outlines, and boxes with keypoints."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from anchor_lightning.data.formats.common import read_text
from anchor_lightning.errors import UserError

BOX_NUMBERS: Final = 5
MAX_CLASSES: Final = 100_000
TOLERANCE: Final = 0.01  # Rounding may carry a coordinate so far beyond [0, 1]; the box is clipped to the image
VISIBILITIES: Final = (0, 1, 2)  # of a keypoint of three numbers: not labelled, hidden, visible


class LabelLine(NamedTuple):
    """One object.

    Args:
        label: Number of its class.
        box: Left, top, right, bottom as shares of the image's sides, of an outline those that enclose it.
        is_outline: Whether it may be an outline.
        keypoint_box: The box where it may be, or can only be, a box with keypoints, all of which lie in it; else None.
    """

    label: int
    box: list[float]
    is_outline: bool = False
    keypoint_box: list[float] | None = None


def read_label_file(
    file: Path, num_classes: int | None = None, kpt_shape: tuple[int, int] | None = None
) -> list[LabelLine]:
    """The objects of an image; [] without a file.

    Args:
        file: The label file.
        num_classes: C, where known.
        kpt_shape: Number of keypoints that follow the box, and numbers of each, 2 or 3, as in ultralytics' `data.yaml`.

    Raises:
        UserError: A line is malformed, or a class is not below `num_classes`; names file and line.
    """
    return [
        _parse_line(f"{file}:{number}", line.split(), num_classes, kpt_shape)
        for number, line in enumerate(read_text(file, default="").splitlines(), start=1)
        if line.strip()
    ]


def _parse_line(where: str, fields: list[str], num_classes: int | None, kpt_shape: tuple[int, int] | None) -> LabelLine:
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        raise UserError(f"{where}: {' '.join(fields)[:60]!r} are not all numbers. Correct the line.") from None
    label = numbers[0]
    if not 0 <= label < MAX_CLASSES or label != int(label):
        raise UserError(
            f"{where}: the class {fields[0]} is no whole number from 0 to {MAX_CLASSES - 1:,}. Correct the line."
        )
    if num_classes is not None and label >= num_classes:
        raise UserError(
            f"{where}: the class {int(label)} is out of range, there are {num_classes} (0 to {num_classes - 1}). "
            "Correct the line, or the names in data.yaml or class_names."
        )
    if kpt_shape is not None:
        expected = BOX_NUMBERS + kpt_shape[0] * kpt_shape[1]
        if len(numbers) != expected:
            raise UserError(
                f"{where}: {len(numbers)} numbers; with kpt_shape {list(kpt_shape)} a line has {expected}: class x y w "
                "h, and those of the keypoints. Correct the line, or kpt_shape in data.yaml."
            )
        return LabelLine(int(label), _box(where, numbers[1:BOX_NUMBERS]))
    if len(numbers) == BOX_NUMBERS:
        return LabelLine(int(label), _box(where, numbers[1:]))
    keypoint_box = _box_with_keypoints(numbers[1:]) if len(numbers) > BOX_NUMBERS else None
    is_outline = len(numbers) >= BOX_NUMBERS + 2 and len(numbers) % 2 == 1  # three points or more
    if is_outline and (keypoint_box is None or _are_shares(numbers[1:])):  # a keypoint's 2 is no share
        points = _shares(where, numbers[1:]).reshape(-1, 2)
        return LabelLine(int(label), [*points.min(0).tolist(), *points.max(0).tolist()], True, keypoint_box)
    if keypoint_box is None:
        raise UserError(
            f"{where}: {len(numbers)} numbers; a line is `class x y w h`, `class` and the points of an outline, x y "
            "each, or a box and its keypoints (x y, or x y and 0, 1 or 2). A confidence has no place in a label. "
            "Correct the line."
        )
    return LabelLine(int(label), keypoint_box, keypoint_box=keypoint_box)


def _are_shares(numbers: list[float]) -> bool:
    return all(-TOLERANCE <= number <= 1 + TOLERANCE for number in numbers)


def _shares(where: str, numbers: list[float]) -> np.ndarray:
    if not _are_shares(numbers):
        raise UserError(
            f"{where}: the coordinates must be shares of the image's width and height, from 0 to 1, not pixels. "
            "Correct the line."
        )
    return np.array(numbers)


def _box(where: str, numbers: list[float]) -> list[float]:
    coordinates = _shares(where, numbers)
    centre, half = coordinates[:2], coordinates[2:] / 2
    return [*(centre - half).tolist(), *(centre + half).tolist()]


def _box_with_keypoints(numbers: list[float]) -> list[float] | None:
    """The box of `x y w h` and keypoints of two or three numbers, where that is a possible reading of a line."""
    coordinates, rest = np.array(numbers[: BOX_NUMBERS - 1]), numbers[BOX_NUMBERS - 1 :]
    corners = np.concatenate([coordinates[:2] - coordinates[2:] / 2, coordinates[:2] + coordinates[2:] / 2])
    if not _are_shares(corners.tolist()):
        return None
    for size in (2, 3):
        if len(rest) % size:
            continue
        points = np.array(rest).reshape(-1, size)
        if size == 3 and not np.isin(points[:, 2], VISIBILITIES).all():
            continue
        labelled = points[(points[:, :2] != 0).any(1), :2]
        inside = (labelled >= corners[:2] - TOLERANCE) & (labelled <= corners[2:] + TOLERANCE)
        if len(labelled) and inside.all():
            return corners.tolist()  # type: ignore[no-any-return]
    return None
