"""Pascal VOC, and data sets of the user's own in its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.formats.common import BoxCleaner, distinct_names, read_text
from anchor_lightning.data.formats.voc_files import SplitCounts, compare_with_published, fetch_voc, parse_voc_xml
from anchor_lightning.data.images import IMAGE_SUFFIXES, image_size_of
from anchor_lightning.data.module import DetectionDataModule, Split
from anchor_lightning.errors import UserError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SET_FOLDERS = ("Annotations", "JPEGImages", "ImageSets/Main")


class VOCDataModule(DetectionDataModule):
    """Pascal VOC 2007 + 2012, or any set in the layout of one VOC year.

    `root` is a devkit (it holds `VOC2007`, `VOC2012`), a folder with a `VOCdevkit` inside, or a set of the user's own
    that itself holds `Annotations`, `JPEGImages` and `ImageSets/Main`. A split is a list in `ImageSets/Main` of each of
    `years`, or of one, as `2007/test`. With years [2007, 2012] the defaults are `trainval` of both and `2007/test`;
    otherwise `train`, `val`, and `test` if there is such a list, else `val`.

    Args:
        years: The years of a devkit to use; without meaning for a set of the user's own.
        class_names: Names of the classes in the order of their labels. The default is VOC's 20 for a devkit, and the
            sorted names found in all annotations for a set of the user's own.
        download: Fetch what is missing of a devkit before training, from where torchvision says it lies.
        kwargs: See `DetectionDataModule`.

    Raises:
        UserError: A folder, list, annotation or image is missing or malformed; names it and what to do.
    """

    root_content = "a VOCdevkit folder or a set in VOC's layout"

    def __init__(
        self,
        years: list[int] = [2007, 2012],  # noqa: B006 jsonargparse documents the value; it is never changed
        class_names: list[str] | None = None,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not years:
            raise UserError("is empty. Give the years to use, [2007, 2012] for one.", argument="years")
        self.years = sorted(set(years))
        self.download = download
        self._class_names = None if class_names is None else distinct_names(class_names)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        if self._class_names is None:
            self._class_names = self._names_found() if self._own_set() else list(VOC_CLASSES)
        return self._class_names

    def prepare_data(self) -> None:
        """Download the missing years, when asked to, with the lists that the splits name."""
        if not self.download or self._own_set():
            return
        root = self._root()
        parent = root.parent if root.name == "VOCdevkit" else root
        for year in self.years:
            for image_set in ("trainval", "test") if year == 2007 else ("trainval",):
                if not (self._devkit() / f"VOC{year}" / "ImageSets" / "Main" / f"{image_set}.txt").is_file():
                    fetch_voc(parent, year, test=image_set == "test")

    def _own_set(self) -> bool:
        return all((self._root() / folder).is_dir() for folder in SET_FOLDERS)

    def _devkit(self) -> Path:
        inner = self._root() / "VOCdevkit"
        return inner if inner.is_dir() else self._root()

    def _year_folder(self, year: int) -> Path:
        folder = self._devkit() / f"VOC{year}"
        missing = [name for name in SET_FOLDERS if not (folder / name).is_dir()]
        if missing:
            here = [name for name in SET_FOLDERS if (self._root() / name).is_dir()]
            hint = f" It has {', '.join(here)} itself, but not the rest." if here else ""
            raise UserError(
                f"{folder} lacks {', '.join(missing)}.{hint} {self._root()} must hold VOC{year} with "
                f"{', '.join(SET_FOLDERS)} (or be such a folder itself): correct it or years, or set download to true.",
                argument="root",
            )
        return folder

    def _default_split(self, role: Split) -> str:
        if self.years == [2007, 2012] and not self._own_set():
            return "trainval" if role == "train" else "2007/test"
        return "val" if role == "test" and not self._has_split("test") else role

    def _list_files(self, name: str) -> list[Path]:
        year, _, list_name = name.rpartition("/")
        if self._own_set():
            folders = [self._root()]
        else:
            folders = [self._year_folder(y) for y in ([int(year)] if year.isdigit() else self.years)]
        return [folder / "ImageSets" / "Main" / f"{list_name}.txt" for folder in folders]

    def _has_split(self, name: str) -> bool:
        try:
            return all(file.is_file() for file in self._list_files(name))
        except UserError:
            return False

    def _read_split(self, name: str) -> list[ImageRecord]:
        cleaner, labels = BoxCleaner(), {name: label for label, name in enumerate(self.class_names)}
        records: list[ImageRecord] = []
        for file in self._list_files(name):
            annotations, images = (file.parents[2] / folder for folder in SET_FOLDERS[:2])
            image_ids = self._image_ids(annotations)
            paths = {path.stem: path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
            difficult: list[bool] = []  # of every object of the files, the broken ones that are dropped included
            stems = dict.fromkeys(_read_list(file))  # a line that comes twice is one image
            for stem in stems:
                if stem not in image_ids:
                    raise UserError(
                        f"{file}: lists {stem!r}, but {annotations / stem}.xml does not exist. Add the annotation or "
                        "take the line out."
                    )
                tree = parse_voc_xml(annotation := annotations / f"{stem}.xml")
                difficult += map(_is_difficult, tree.findall("object"))
                path = paths.get(stem, images / f"{stem}.jpg")  # reading its size reports one that is not there
                records.append(self._read_image(annotation, tree, path, image_ids[stem], labels, cleaner))
            if not self._own_set():
                compare_with_published(file, SplitCounts(len(stems), difficult.count(False), difficult.count(True)))
        cleaner.report(f"{self._root()} ({name})")
        return records

    def _image_ids(self, annotations: Path) -> dict[str, int]:
        """Ids from 1 on by sorted stem, over all annotations of all years, so that every split agrees on them."""
        first = 1
        if not self._own_set():
            for year in self.years:
                if (before := self._year_folder(year) / "Annotations") == annotations:
                    break
                first += len(list(before.glob("*.xml")))
        return {stem: i for i, stem in enumerate(sorted(file.stem for file in annotations.glob("*.xml")), start=first)}

    def _read_image(
        self, file: Path, tree: Element, path: Path, image_id: int, labels: dict[str, int], cleaner: BoxCleaner
    ) -> ImageRecord:
        size = self._image_size(tree, path)
        objects = tree.findall("object")  # direct children: a `part` has a name and a box of its own
        for obj in objects:
            if _text(obj, "name") not in labels:
                raise UserError(
                    f"{file}: unknown class {_text(obj, 'name')!r} in <object><name>. Correct it, or list all classes "
                    f"as class_names; known are {', '.join(labels)}."
                )
        return cleaner.record(
            image_id,
            path,
            file.stem,
            size,
            np.array([_box(file, obj) for obj in objects]),
            [labels[_text(obj, "name")] for obj in objects],
            str(file),
            ignore=[_is_difficult(obj) for obj in objects],
        )

    def _image_size(self, tree: Element, path: Path) -> tuple[int, int]:
        """Height and width from the image's header: <size> is wrong or missing in many a set."""
        try:
            return image_size_of(path)
        except UserError:
            sides = [_text(tree, f"size/{side}") for side in ("height", "width")]
            if self.skip_bad_images and all(side.isdigit() and int(side) for side in sides):
                return int(sides[0]), int(sides[1])
            raise

    def _names_found(self) -> list[str]:
        files = sorted((self._root() / "Annotations").glob("*.xml"))
        names = sorted({_text(obj, "name") for file in files for obj in parse_voc_xml(file).findall("object")} - {""})
        if not names:
            raise UserError(f"No <object><name> in any .xml of {self._root() / 'Annotations'}: nothing to learn there.")
        return names


def _text(element: Element, field: str) -> str:
    return (element.findtext(field) or "").strip()


def _is_difficult(obj: Element) -> bool:
    return _text(obj, "difficult") == "1"


def _box(file: Path, obj: Element) -> list[float]:
    """Continuous, 0-based corners from VOC's 1-based inclusive pixels, in the file's order; equal ones stay so."""
    values = []
    for field in ("xmin", "ymin", "xmax", "ymax"):
        text = _text(obj, f"bndbox/{field}")
        try:
            values.append(float(text))
        except ValueError:
            raise UserError(
                f"{file}: <bndbox><{field}> of an object {_text(obj, 'name')!r} is {text!r}, not a number. Correct it."
            ) from None
    first, second = np.array(values).reshape(2, 2)
    return [*(first - (first < second)).tolist(), *(second - (second < first)).tolist()]


def _read_list(file: Path) -> list[str]:
    """The first column of a list; the devkit's lists of one class have a second one."""
    if not file.is_file():
        there = ", ".join(sorted(f.stem for f in file.parent.glob("*.txt"))) or "none"
        raise UserError(
            f"{file}: no such list. Set the split to a list that exists (there are: {there}; `2007/test` names the "
            "list of one year)."
        )
    return [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
