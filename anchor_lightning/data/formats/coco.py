"""COCO 2017, and any other data set whose annotations are COCO's JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.formats.common import BoxCleaner, distinct_names, exists
from anchor_lightning.data.images import image_size_of
from anchor_lightning.data.module import SPLITS, DetectionDataModule, Split
from anchor_lightning.errors import UserError
from anchor_lightning.structures import GroundTruth

MAX_ID = 2**63 - 1  # Ids are kept as 64-bit numbers
MAX_SIDE = 1_000_000  # Pixels; where an annotation says more, the image is asked


class COCODataModule(DetectionDataModule):
    """COCO 2017 detection, or any set with COCO-JSON annotations.

    A split NAME is `annotations/instances_NAME2017.json` with the images in `NAME2017`, unless other places are given;
    test takes `val` without `test_annotations`. A file without the list `annotations` serves for prediction only.

    Args:
        train_annotations: Annotation file of the split `train`; relative to `root`.
        val_annotations: Annotation file of the split `val`.
        test_annotations: Annotation file of the split `test`.
        train_images: Folder of the images of the split `train`; relative to `root`.
        val_images: Folder of the images of the split `val`.
        test_images: Folder of the images of the split `test`.
        kwargs: See `DetectionDataModule`.

    Raises:
        UserError: A file is missing or malformed, or the splits disagree on the categories; names it.
    """

    root_content = "the folder that holds annotations/ and the images"

    def __init__(
        self,
        train_annotations: str | None = None,
        val_annotations: str | None = None,
        test_annotations: str | None = None,
        train_images: str | None = None,
        val_images: str | None = None,
        test_images: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._annotations = {"train": train_annotations, "val": val_annotations, "test": test_annotations}
        self._images = {"train": train_images, "val": val_images, "test": test_images}
        self._images_only: set[str] = set()

    @property
    def class_names(self) -> list[str]:
        """Names of the categories, in the order of their ids."""
        return list(self._categories.values())

    @property
    def category_ids(self) -> list[int]:
        """(C,) the annotation files' id of each label: ids may have holes, labels have none."""
        return list(self._categories)

    def ground_truth(self, split: Split) -> list[GroundTruth]:
        """All boxes of a split, crowds included, in the order of `records`.

        Raises:
            UserError: As `records`, or the split's file holds no annotations.
        """
        ground_truths, name = super().ground_truth(split), self.split_name(split)
        if name in self._images_only:
            raise UserError(
                f"{self._annotation_file(name)} holds no 'annotations': predict can use it, but there is nothing to "
                f"{'train on' if split == 'train' else 'measure against'}; give a file that has some.",
                argument=f"{name}_annotations",
            )
        return ground_truths

    @cached_property
    def _categories(self) -> dict[int, str]:
        """Names by id in ascending order, from the first split that is there."""
        files = list(dict.fromkeys(self._annotation_file(self.split_name(role)) for role in SPLITS))
        for file in files:
            if file.is_file():
                return _read_categories(file, load_coco_json(file))
        raise UserError(
            f"no annotations found; looked for {', '.join(map(str, files))}. Correct it, or give train_annotations and "
            "val_annotations.",
            argument="root",
        )

    def _default_split(self, role: Split) -> str:
        return "val" if role == "test" and not self._annotations["test"] else role

    def _annotation_file(self, name: str) -> Path:
        return self._root() / (self._annotations.get(name) or f"annotations/instances_{name}2017.json")

    def _image_folder(self, name: str) -> Path:
        return self._root() / (self._images.get(name) or f"{name}2017")

    def _has_split(self, name: str) -> bool:
        return self._annotation_file(name).is_file()

    def _read_split(self, name: str) -> list[ImageRecord]:
        file, folder = self._annotation_file(name), self._image_folder(name)
        content = load_coco_json(file)
        categories = _read_categories(file, content)
        if categories != self._categories:
            raise UserError(
                f"{file}: its categories are not those of the other splits ({len(categories)} against "
                f"{len(self._categories)}, or other names). Give every split the same list of categories."
            )
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder of images for {file}. Give it, or correct root.", argument=f"{name}_images"
            )
        if "annotations" not in content:
            self._images_only.add(name)
        cleaner, labels = BoxCleaner(), {category: label for label, category in enumerate(categories)}
        annotations = _annotations_by_image(file, content)
        present = {entry.name for entry in folder.iterdir()}
        records = []
        for position, image in enumerate(content["images"]):
            image_id, file_name = _image_entry(file, position, image)
            path = folder / file_name
            if path.name not in present and not exists(path) and not self.skip_bad_images:
                raise UserError(f"{path}: no such image, but {file} lists it. Add it, or correct {name}_images.")
            size = (image.get("height"), image.get("width"))
            if not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in size):
                size = image_size_of(path)
            own = annotations.pop(image_id, [])
            for annotation in own:
                _check_annotation(file, annotation, labels)
            xywh = np.array([a["bbox"] for a in own], dtype=np.float64).reshape(-1, 4)
            records.append(
                cleaner.record(
                    image_id,
                    path,
                    file_name,
                    size,
                    np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
                    [labels[a["category_id"]] for a in own],
                    f"image {image_id}",
                    ignore=[bool(a.get("iscrowd", 0)) for a in own],
                    area=[float(a.get("area") or wh.prod()) for a, wh in zip(own, xywh[:, 2:], strict=True)],
                )
            )
        if len({record.ground_truth.image_id for record in records}) != len(records):
            raise UserError(f"{file}: two entries of 'images' have the same id. Give each image an id of its own.")
        if annotations:
            raise UserError(
                f"{file}: annotations refer to image_id {next(iter(annotations))!r}, which 'images' does not have. Add "
                "the image or take its annotations out."
            )
        cleaner.report(str(file))
        return records


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


def _read_categories(file: Path, content: dict[str, Any]) -> dict[int, str]:
    try:
        categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{file}: an entry of 'categories' lacks a whole number 'id' or a 'name'. Add it.") from None
    if len(categories) < max(1, len(content["categories"])):
        raise UserError(f"{file}: 'categories' is empty or has an id twice. Give each category an id of its own.")
    distinct_names(list(categories.values()), f"{file}: 'categories'")
    return dict(sorted(categories.items()))


def _image_entry(file: Path, position: int, image: object) -> tuple[int, str]:
    try:
        image_id, name = image["id"], image["file_name"]  # type: ignore[index]
    except (KeyError, TypeError):
        raise UserError(f"{file}: images[{position}] lacks 'id' or 'file_name'. Add it.") from None
    if not isinstance(image_id, int) or not 1 <= image_id <= MAX_ID or not isinstance(name, str) or not name:
        raise UserError(
            f"{file}: images[{position}] has id {image_id!r} and file_name {name!r}; ids must be whole numbers from 1 "
            "on, file names text. Correct them."
        )
    return image_id, name


def _annotations_by_image(file: Path, content: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for position, annotation in enumerate(content.get("annotations", [])):
        try:
            by_image[annotation["image_id"]].append(annotation)
            sides = annotation["bbox"]
            if isinstance(sides, str) or len([float(side) for side in sides]) != 4:
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f"{file}: annotations[{position}] lacks 'image_id', or a 'bbox' of four numbers [x, y, width, height]. "
                "Correct it."
            ) from None
    return by_image


def _check_annotation(file: Path, annotation: dict[str, Any], labels: dict[int, int]) -> None:
    where = f"{file}: annotation {annotation.get('id')} of image {annotation['image_id']} has"
    category, area = annotation.get("category_id"), annotation.get("area") or 0
    if not isinstance(category, int | float) or category not in labels:
        raise UserError(f"{where} the unknown category_id {category!r}. Add it to 'categories' or correct it.")
    try:
        float(area)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{where} the area {str(area)[:40]!r}, which is no number. Correct it or take it out."
        ) from None
