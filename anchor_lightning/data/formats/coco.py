"""COCO 2017, and any other data set whose annotations are COCO's JSON."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anchor_lightning.data.annotated_set import SPLITS, AnnotatedSet, Split
from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.formats.coco_files import (
    annotations_by_image,
    check_annotation,
    compare_readings,
    have_whole_ids,
    image_entry,
    load_coco_json,
    read_categories,
)
from anchor_lightning.data.formats.common import SplitReader, exists
from anchor_lightning.data.formats.detect import COCO, other_kind
from anchor_lightning.data.formats.places import find
from anchor_lightning.data.images import AS_STATED
from anchor_lightning.errors import UserError
from anchor_lightning.structures import GroundTruth

MAX_SIDE = 1_000_000  # Pixels; where an annotation says more, the image is asked


class COCOSet(AnnotatedSet):
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
        kwargs: See `AnnotatedSet`.

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
        self.records(split)
        if (name := self.split_name(split)) in self._images_only:
            raise UserError(
                f"{self._annotation_file(name)} holds no 'annotations': predict can use it, but there is nothing to "
                f"{'train on' if split == 'train' else 'measure against'}; give a file that has some.",
                argument=f"{name}_annotations",
            )
        return super().ground_truth(split)

    @cached_property
    def _categories(self) -> dict[int, str]:
        """Names by id in ascending order, from the first split that is there."""
        files = list(dict.fromkeys(self._annotation_file(self.split_name(role)) for role in SPLITS))
        for file in files:
            if file.is_file():
                return read_categories(file, load_coco_json(file))
        raise UserError(
            other_kind(self._root(), COCO)
            or f"no annotations found; looked for {', '.join(map(str, files))}. Correct it, or give train_annotations "
            "and val_annotations.",
            argument="root",
        )

    def _default_split(self, role: Split) -> str:
        return "val" if role == "test" and not self._annotations["test"] else role

    def _annotation_file(self, name: str) -> Path:
        return self._root() / (self._annotations.get(name) or f"annotations/instances_{name}2017.json")

    def _image_folder(self, name: str) -> Path:
        return self._root() / (self._images.get(name) or f"{name}2017")

    def _has_split(self, name: str) -> bool:
        file, train = self._annotation_file(name), self._annotation_file("train")
        if name == "train" or self._annotations.get(name) or not train.is_file():
            return file.is_file()
        return file.is_file() and not file.samefile(train)  # a file that is given for training is no other split's

    def _read_split(self, name: str) -> list[ImageRecord]:
        expected = self._categories  # says so where there is no split at all
        file, folder = self._annotation_file(name), self._image_folder(name)
        content = load_coco_json(file)
        categories = read_categories(file, content)
        if categories != expected:
            raise UserError(
                f"{file}: its categories are not those of the other splits ({len(categories)} against "
                f"{len(expected)}, or other names). Give every split the same list of categories."
            )
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder of images for {file}. Give it, or correct root.", argument=f"{name}_images"
            )
        if "annotations" not in content:
            self._images_only.add(name)
        reader, labels = SplitReader(), {category: label for label, category in enumerate(categories)}
        annotations = annotations_by_image(file, content)
        present = {entry.name for entry in folder.iterdir()}
        records, numbered = [], have_whole_ids(content["images"])
        for position, image in enumerate(content["images"]):
            key, file_name = image_entry(file, position, image)
            path = folder / file_name
            if path.name != file_name or file_name not in present:  # in a folder of its own, or written elsewhere
                path = find(file_name, [folder, self._root()]) or path
                if not exists(path) and not self.skip_bad_images:
                    raise UserError(f"{path}: no such image, but {file} lists it. Add it, or correct {name}_images.")
            size, orientation = (image.get("height"), image.get("width")), AS_STATED
            if not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in size):
                if (header := reader.header(path, self.skip_bad_images)) is None:
                    annotations.pop(key, None)
                    continue
                size, orientation = header.shown_size, header.orientation
            own = annotations.pop(key, [])
            for annotation in own:
                check_annotation(file, annotation, labels)
            image_id = int(key) if numbered else position + 1
            xywh = np.array([a["bbox"] for a in own], dtype=np.float64).reshape(-1, 4)
            records.append(
                reader.record(
                    image_id,
                    path,
                    file_name,
                    size,
                    np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
                    [labels[int(a["category_id"])] for a in own],
                    f"image {key}",
                    ignore=[bool(a.get("iscrowd", 0)) for a in own],
                    area=[float(a.get("area") or wh.prod()) for a, wh in zip(own, xywh[:, 2:], strict=True)],
                    orientation=orientation,
                )
            )
        if len({record.ground_truth.image_id for record in records}) != len(records):
            raise UserError(f"{file}: two entries of 'images' have the same id. Give each image an id of its own.")
        if annotations:
            raise UserError(
                f"{file}: annotations refer to image_id {next(iter(annotations))}, which 'images' does not have. Add "
                "the image or take its annotations out."
            )
        if not numbered:
            reader.note("the ids of the images are not whole numbers; they are numbered from 1 in the file's order.")
        compare_readings(content.get("annotations", []), records, reader)
        reader.report(str(file), records, self.class_names)
        return records
