"""COCO's JSON: what is read from it, and the ids that other tools write."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.formats.common import SplitReader, distinct_names
from anchor_lightning.errors import UserError

MAX_ID: Final = 2**63 - 1  # Ids are kept as 64-bit numbers


def load_coco_json(file: Path) -> dict[str, Any]:
    """The content of an annotation file, with the lists `images` and `categories` present.

    Raises:
        UserError: The file is missing, is no JSON, lacks `images` or `categories`, or its `annotations` are no list.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{file}: no such annotations. Correct root, or name the file as train_annotations, val_annotations or "
            "test_annotations."
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is no JSON ({error}). Restore the file.") from None
    fields = ("images", "annotations", "categories")
    found = {"annotations": [], **content} if isinstance(content, dict) else {}
    missing = [f for f in fields if not isinstance(found.get(f), list)]
    if missing:
        raise UserError(
            f"{file}: lacks the list {missing[0]!r}. It must be COCO's detection format: {', '.join(fields)}."
        )
    return dict(content)


def read_categories(file: Path, content: dict[str, Any]) -> dict[int, str]:
    """Names of the categories by id, in ascending order.

    Raises:
        UserError: There is none, or one lacks a name or an id of its own.
    """
    try:
        categories = {int(c["id"]): str(c["name"]) for c in content["categories"] if whole_id(c["id"]) is not None}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(
            f"{file}: an entry of 'categories' lacks an 'id' that is a whole number, as text or not, or a 'name'. "
            "Correct it."
        ) from None
    if len(categories) < max(1, len(content["categories"])):
        raise UserError(
            f"{file}: 'categories' is empty, has an id twice, or one that is no whole number. Give each category an "
            "id of its own, a whole number."
        )
    distinct_names(list(categories.values()), f"{file}: 'categories'")
    return dict(sorted(categories.items()))


def image_entry(file: Path, position: int, image: object) -> tuple[str, str]:
    """The `image_key` and the file name of an entry of `images`, at a position of the list.

    Raises:
        UserError: One is missing or of a wrong kind.
    """
    try:
        image_id, name = image["id"], image["file_name"]  # type: ignore[index]
    except (KeyError, TypeError):
        raise UserError(f"{file}: images[{position}] lacks 'id' or 'file_name'. Add it.") from None
    is_id = isinstance(image_id, str) or (whole_id(image_id) is not None and 0 <= int(image_id) <= MAX_ID)
    if not is_id or not isinstance(name, str) or not name:
        raise UserError(
            f"{file}: images[{position}] has id {image_id!r} and file_name {name!r}; ids must be whole numbers from 0 "
            "on, or text, and file names text. Correct them."
        )
    return image_key(image_id), name


def whole_id(value: object) -> int | None:
    """An id as a whole number, which some tools write as text; None if it is none."""
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def image_key(image_id: Any) -> str:
    """What the ids of an image and of its annotations have in common, 7, "7" and 7.0 alike."""
    number = whole_id(image_id)
    return str(image_id) if number is None else str(number)


def have_whole_ids(images: list[Any]) -> bool:
    """Whether the ids of all images are whole numbers, be it as text."""
    return all(isinstance(image, dict) and whole_id(image.get("id")) is not None for image in images)


def annotations_by_image(file: Path, content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The annotations of each image by its `image_key`, in the file's order.

    Raises:
        UserError: One lacks the image's id or a box of four numbers.
    """
    by_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for position, annotation in enumerate(content.get("annotations", [])):
        try:
            image_id, sides = annotation["image_id"], annotation["bbox"]
            if not isinstance(image_id, int | float | str):
                raise TypeError
            by_image[image_key(image_id)].append(annotation)
            if isinstance(sides, str) or len([float(side) for side in sides]) != 4:
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f"{file}: annotations[{position}] lacks 'image_id', or a 'bbox' of four numbers [x, y, width, height]. "
                "Correct it."
            ) from None
    return by_image


def check_annotation(file: Path, annotation: dict[str, Any], labels: dict[int, int]) -> None:
    """Checks category and area of an annotation; `labels` are by category id.

    Raises:
        UserError: The category is unknown, or the area is no number.
    """
    where = f"{file}: annotation {annotation.get('id')} of image {annotation['image_id']} has"
    category, area = annotation.get("category_id"), annotation.get("area") or 0
    if whole_id(category) not in labels:
        raise UserError(f"{where} the unknown category_id {category!r}. Add it to 'categories' or correct it.")
    try:
        float(area)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{where} the area {str(area)[:40]!r}, which is no number. Correct it or take it out."
        ) from None


def compare_readings(annotations: list[dict[str, Any]], records: list[ImageRecord], reader: SplitReader) -> None:
    """Warns where boxes seem to be corners instead of COCO's [x, y, width, height]: only so all lie in the images."""
    sizes = {image_key(record.ground_truth.image_id): (record.width, record.height) for record in records}
    boxes = [(a["bbox"], sizes[key]) for a in annotations if (key := image_key(a["image_id"])) in sizes]
    if not boxes:
        return
    given, size = np.array([b for b, _ in boxes], dtype=np.float64), np.array([s for _, s in boxes])
    is_outside = (given[:, :2] + given[:, 2:] > size + 1).any(1)
    are_corners = (given[:, 2:] > given[:, :2]).all() and (given[:, 2:] <= size + 1).all()
    if are_corners and is_outside.any():
        reader.note(
            f"{is_outside.sum()} of {len(given)} boxes reach out of their images as [x, y, width, height], which is "
            "COCO's format, and none as [left, top, right, bottom]: are they corners? They are read as COCO's."
        )
