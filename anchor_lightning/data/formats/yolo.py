"""Data sets with YOLO's labels: a text file an image, as ultralytics' and darknet's tools read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.formats.common import BoxCleaner, distinct_names, exists, read_text
from anchor_lightning.data.images import IMAGE_SUFFIXES
from anchor_lightning.data.module import SPLITS, DetectionDataModule, Split
from anchor_lightning.errors import UserError

BOX_NUMBERS = 5
MAX_CLASSES = 100_000
TOLERANCE = 0.01  # Rounding may carry a coordinate so far beyond [0, 1]; the box is clipped to the image


class YOLODataModule(DetectionDataModule):
    """A set whose labels are lines `class x y w h`: centre and size as shares of the image's width and height.

    The splits come from a `data.yaml` (`path`, `train`, `val`, `test`, `names`), each a folder of images, a list of
    these, or a text file with one image path a line; without one, a split NAME is `images/NAME`, `NAME/images`, or, for
    `train` alone, `images`. The labels of `…/images/a/b.jpg` are `…/labels/a/b.txt`, if it has objects. Of an outline,
    `class x y x y …`, the enclosing box is taken. By default test takes `test` if there is one, else `val`.

    Args:
        data_yaml: The file; relative to `root` if that is given. The default is `data.yaml` in `root`, if it exists.
        class_names: Names of the classes in the order of their numbers. The default is `names` of the `data.yaml`, then
            the lines of `classes.txt` in `root` or its `labels`, then `class 0` up to the highest number found.
        kwargs: See `DetectionDataModule`; `root` replaces the `path` of the `data.yaml`.

    Raises:
        UserError: A file or folder is missing or malformed; names it, with the line, and what to do.
    """

    root_content = "the folder of images/ and labels/, or give data_yaml"

    def __init__(self, data_yaml: str | None = None, class_names: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_yaml = self._find_file(data_yaml)
        self._content = {} if self.data_yaml is None else load_data_yaml(self.data_yaml)
        self._class_names = self._names_given() if class_names is None else distinct_names(class_names)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        if self._class_names is None:
            there = [name for name in dict.fromkeys(map(self.split_name, SPLITS)) if self._has_split(name)]
            files = [label_path_of(path) for name in there for path in self._images(name)]
            count = 1 + max((number for file in files for number, _ in read_label_file(file)), default=-1)
            if not count:
                raise UserError(f"{self._where()}: no labels found to take the classes from. Give class_names.")
            self._class_names = [f"class {number}" for number in range(count)]
        return self._class_names

    def _find_file(self, data_yaml: str | None) -> Path | None:
        if data_yaml is None:
            default = self._root() / "data.yaml"
            return default if default.is_file() else None
        file = Path(data_yaml)
        return self.root / file if self.root is not None and not file.is_file() else file

    def _where(self) -> str:
        return str(self.data_yaml or self.root)

    def _bases(self) -> list[Path]:
        """Folders that the file's entries may be relative to, the likeliest first."""
        if self.data_yaml is None or self.root is not None:
            return [self._root()]
        beside = self.data_yaml.parent
        given = self._content.get("path")
        return [beside / str(given), Path(str(given)), beside] if given else [beside]

    def _names_given(self) -> list[str] | None:
        names = self._content.get("names")
        if names is not None:
            where = f"{self._where()}: 'names'"
            if isinstance(names, dict) and set(names) == set(range(len(names))):
                names = [names[number] for number in range(len(names))]
            if not isinstance(names, list) or any(isinstance(name, list | dict) for name in names):
                raise UserError(
                    f"{where} must be a list of names, or a dict with the keys 0, 1, 2, … without gaps. Correct it."
                )
            return distinct_names([str(name) for name in names], where)
        folders = [folder for base in self._bases() for folder in (base, base / "labels")]
        for file in (folder / "classes.txt" for folder in folders):
            if exists(file):
                lines = [line.strip() for line in read_text(file).splitlines()]
                return distinct_names([line for line in lines if line], str(file))
        return None

    def _default_split(self, role: Split) -> str:
        return "val" if role == "test" and not self._has_split("test") else role

    def _has_split(self, name: str) -> bool:
        try:
            return bool(self._places(name))
        except UserError:  # many a data.yaml names a test set that is not at hand
            return False

    def _places(self, name: str) -> list[Path]:
        """The folders and lists of a split that exist; empty if the set does not have it."""
        if self.data_yaml is None:
            (base,) = self._bases()
            inside = [base / "images" / name, base / name / "images", *([base / "images"] if name == "train" else [])]
            return [place for place in inside if place.is_dir()][:1]
        entry = self._content.get(name)
        entries = entry if isinstance(entry, list) else [] if entry is None else [entry]
        if any(isinstance(place, list | dict) for place in entries):
            raise UserError(f"{self._where()}: {name}: must be a path or a list of paths. Correct the entry.")
        return [self._resolve(str(place), name) for place in entries]

    def _resolve(self, place: str, name: str) -> Path:
        # Exports of labelling services write `../train/images` into a file that lies beside `train`.
        tried = [base / text for base in self._bases() for text in dict.fromkeys((place, place.removeprefix("../")))]
        for path in tried:
            if exists(path):
                return path
        raise UserError(
            f"{self._where()}: {name}: there is no {' or '.join(map(str, dict.fromkeys(tried)))}. Correct the entry or "
            "'path', or give the set's folder as root."
        )

    def _images(self, name: str) -> list[Path]:
        places = self._places(name)
        if not places:
            known = ", ".join(sorted(str(key) for key in self._content if key not in ("path", "names", "nc"))) or "none"
            looked = f"it has {known}" if self.data_yaml else f"looked for images/{name} and {name}/images"
            raise UserError(f"{self._where()}: there is no split {name!r} ({looked}). Correct root or the split.")
        return [path for place in places for path in _images_in(place, self._bases()[0])]

    def _read_split(self, name: str) -> list[ImageRecord]:
        cleaner = BoxCleaner()
        records: list[ImageRecord] = []
        for path in self._images(name):
            labels = read_label_file(label_path_of(path), self.num_classes)
            if (size := cleaner.image_size(path, self.skip_bad_images)) is None:
                continue
            boxes = np.array([box for _, box in labels]).reshape(-1, 4) * np.tile(size[::-1], 2)
            numbers = [number for number, _ in labels]
            records.append(cleaner.record(len(records) + 1, path, path.name, size, boxes, numbers, str(path)))
        cleaner.report(f"{self._where()} ({name})")
        return records


def load_data_yaml(file: Path) -> dict[str, Any]:
    """The content of a `data.yaml`, as plain values: nothing in it is executed.

    Raises:
        UserError: It is missing, is no YAML, or names no split.
    """
    text = read_text(file)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist, say
        raise UserError(f"{file}: is no YAML ({' '.join(str(error).split())}). Correct it.") from None
    if not isinstance(content, dict) or not {"train", "val"} & content.keys():
        raise UserError(f"{file}: has neither 'train' nor 'val'. It must be a YOLO data.yaml: path, train, val, names.")
    return content


def label_path_of(path: Path) -> Path:
    """The label file of an image: its last folder `images` replaced by `labels`; beside the image if there is none."""
    folder = next((folder for folder in path.parents if folder.name == "images"), None)
    labels = path if folder is None else folder.with_name("labels") / path.relative_to(folder)
    return labels.with_suffix(".txt")


def read_label_file(file: Path, num_classes: int | None = None) -> list[tuple[int, list[float]]]:
    """Class number and corners (left, top, right, bottom, as shares of the image) of every object; [] without a file.

    Raises:
        UserError: A line is malformed, or a class is not below `num_classes`; names file and line.
    """
    return [
        _parse_line(f"{file}:{number}", line.split(), num_classes)
        for number, line in enumerate(read_text(file, default="").splitlines(), start=1)
        if line.strip()
    ]


def _parse_line(where: str, fields: list[str], num_classes: int | None) -> tuple[int, list[float]]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        raise UserError(f"{where}: {' '.join(fields)[:60]!r} are not all numbers. Correct the line.") from None
    # An outline has three points or more; an even count is a box with a confidence, say.
    if len(numbers) != BOX_NUMBERS and (len(numbers) < BOX_NUMBERS + 2 or len(numbers) % 2 == 0):
        raise UserError(
            f"{where}: {len(numbers)} numbers; a line is `class x y w h`, or `class` and the points of an outline, x y "
            "each. Correct the line."
        )
    label, coordinates = numbers[0], np.array(numbers[1:])
    if not 0 <= label < MAX_CLASSES or label != int(label):
        raise UserError(
            f"{where}: the class {fields[0]} is no whole number from 0 to {MAX_CLASSES - 1:,}. Correct the line."
        )
    if num_classes is not None and label >= num_classes:
        raise UserError(
            f"{where}: the class {int(label)} is out of range, there are {num_classes} (0 to {num_classes - 1}). "
            "Correct the line, or the names in data.yaml or class_names."
        )
    if not ((coordinates >= -TOLERANCE) & (coordinates <= 1 + TOLERANCE)).all():
        raise UserError(
            f"{where}: the coordinates must be shares of the image's width and height, from 0 to 1, not pixels. "
            "Correct the line."
        )
    if len(numbers) == BOX_NUMBERS:
        centre, half = coordinates[:2], coordinates[2:] / 2
        return int(label), [*(centre - half).tolist(), *(centre + half).tolist()]
    points = coordinates.reshape(-1, 2)
    return int(label), [*points.min(0).tolist(), *points.max(0).tolist()]


def _images_in(place: Path, base: Path) -> list[Path]:
    """The images of a folder, of folders inside it too, or of a text file with one path a line."""
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if place.suffix.lower() != ".txt":
        raise UserError(f"{place}: is neither a folder of images nor a .txt with image paths. Correct the split.")
    lines = [line.strip() for line in read_text(place).splitlines() if line.strip()]
    # Paths are relative to the list; some tools write them relative to the set's folder.
    return [next((p for p in (place.parent / line, base / line) if exists(p)), place.parent / line) for line in lines]
