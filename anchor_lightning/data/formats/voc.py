"""Pascal VOC, and data sets of the user's own in its layout."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from anchor_lightning.data.annotated_set import SPLITS, AnnotatedSet, Split
from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.formats.common import SplitReader, distinct_names
from anchor_lightning.data.formats.detect import VOC, other_kind
from anchor_lightning.data.formats.voc_files import (
    SplitCounts,
    compare_with_published,
    corners,
    fetch_voc,
    is_difficult,
    parse_voc_xml,
    text_of,
)
from anchor_lightning.data.formats.voc_layout import VOCFolder, find_layout
from anchor_lightning.data.images import ImageHeader
from anchor_lightning.errors import UserError
from anchor_lightning.messages import info

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SET_FOLDERS = ("Annotations", "JPEGImages", "ImageSets/Main")
DEVKIT = "VOCdevkit"  # the folder that VOC's archives unpack


class VOCSet(AnnotatedSet):
    """Pascal VOC 2007 + 2012, or any set in the layout of one VOC year.

    `root` is a devkit (it holds `VOC2007`, `VOC2012`), a folder with a `VOCdevkit` inside, or a set of the user's own
    that itself holds `Annotations`, `JPEGImages` and `ImageSets/Main`. A split is a list in `ImageSets/Main` of each of
    `years`, or of one, as `2007/test`. With years [2007, 2012] the defaults are `trainval` of both and `2007/test`;
    otherwise `train` (else `trainval`, else the only list), `val`, and `test` if there is such a list, else `val`.
    Lists of the classes of a split (`dog_train.txt`) count where the split has none of its own.

    A set of the user's own may also lie as labelling tools leave it: without lists, with `images` and `annotations` (or
    `annots`) instead of VOC's names, with folders inside these, or with `.xml` and images side by side, in one folder
    or in `train`, `valid` and `test`.

    Args:
        years: The years of a devkit to use; without meaning for a set of the user's own.
        class_names: Names of the classes in the order of their labels. The default is VOC's 20 for a devkit, and the
            sorted names found in all annotations for a set of the user's own.
        download: Fetch what is missing of a devkit before training, from where torchvision says it lies.
        kwargs: See `AnnotatedSet`.

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
        self._years: dict[int, VOCFolder] = {}
        self._class_names = None if class_names is None else distinct_names(class_names)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        if self._class_names is None:
            self._class_names = self._names_found() if self._own is not None else list(VOC_CLASSES)
        return self._class_names

    def prepare_data(self) -> None:
        """Download the missing years, when asked to, with the lists that the splits name."""
        if not self.download or self._own is not None:
            return
        root = self._root()
        parent = root.parent if root.name == DEVKIT else root
        for year in self.years:
            for image_set in ("trainval", "test") if year == 2007 else ("trainval",):
                if not (self._devkit() / f"VOC{year}" / "ImageSets" / "Main" / f"{image_set}.txt").is_file():
                    fetch_voc(parent, year, test=image_set == "test")

    @cached_property
    def _own(self) -> VOCFolder | None:
        """The folder of a set of the user's own; None of a devkit."""
        root = self._root()
        if all((root / folder).is_dir() for folder in SET_FOLDERS):
            return VOCFolder(*(root / folder for folder in SET_FOLDERS))
        is_devkit = any((self._devkit() / f"VOC{year}").is_dir() for year in range(2005, 2013))
        return None if is_devkit else find_layout(root)

    def _folders(self, name: str) -> dict[VOCFolder, str]:
        """The folders that a split is of, with its name there."""
        year, _, list_name = name.rpartition("/")
        if self._own is not None:
            return {self._own: list_name}
        years = [int(year)] if year.isdigit() else self.years
        return {self._year(year): list_name for year in years}

    def _year(self, year: int) -> VOCFolder:
        """The folder of one year of a devkit."""
        if year not in self._years:
            folder = self._year_folder(year)
            self._years[year] = VOCFolder(*(folder / name for name in SET_FOLDERS))
        return self._years[year]

    def _devkit(self) -> Path:
        inner = self._root() / DEVKIT
        return inner if inner.is_dir() else self._root()

    def _year_folder(self, year: int) -> Path:
        folder = self._devkit() / f"VOC{year}"
        missing = [name for name in SET_FOLDERS if not (folder / name).is_dir()]
        if missing:
            raise UserError(self._why_no_devkit(folder, missing), argument="root")
        return folder

    def _why_no_devkit(self, folder: Path, missing: list[str]) -> str:
        root = self._root()
        if (other := other_kind(root, VOC)) is not None:
            return other
        if self._names_devkit(root):
            lacks = ", ".join(missing)
            return f"{folder} lacks {lacks}. Correct root or years, or set download to true to fetch VOC."
        return (
            f"{root} holds no set that is known: .xml files and images of its own (docs/data.md), or {folder.name} "
            f"with {', '.join(SET_FOLDERS)}. Correct it."
        )

    def _names_devkit(self, root: Path) -> bool:
        """Whether a folder is or is to be VOC's own, by its name or by what is in it."""
        inside = (self._devkit() / f"VOC{year}" for year in range(2005, 2013))
        return root.name == DEVKIT or any(folder.is_dir() for folder in inside)

    def _no_folder(self, root: Path) -> str | None:
        if self.download:  # makes it
            return None
        text = super()._no_folder(root)
        return f"{text}, or set download to true to fetch VOC to it" if root.name == DEVKIT else text

    def _default_split(self, role: Split) -> str:
        if self._own is None and self.years == [2007, 2012]:
            return "trainval" if role == "train" else "2007/test"
        if role == "train" and self._own is not None and self._own.lists is not None:
            return self._own.train_list()
        return "val" if role == "test" and not self._has_split("test") else role

    def _has_split(self, name: str) -> bool:
        try:
            folders = self._folders(name)
        except UserError:
            return False
        return all(f.split_lists(n) if f.lists is not None else f.members(n) for f, n in folders.items())

    def _read_split(self, name: str) -> list[ImageRecord]:
        reader, labels = SplitReader(), {name: label for label, name in enumerate(self.class_names)}
        records: list[ImageRecord] = []
        first_id = 1  # by sorted name, over all annotations of all years, so that every split agrees on them
        ids: dict[tuple[Path, str], int] = {}
        for folder in dict.fromkeys([*self._all_folders(), *self._folders(name)]):
            ids |= {(folder.annotations, key): i for i, key in enumerate(folder.xml, start=first_id)}
            first_id += len(folder.xml)
        for folder, list_name in self._folders(name).items():
            members = folder.members(list_name)
            if members is None:
                raise folder.no_such_split(list_name)
            difficult: list[bool] = []  # of every object of the files, the broken ones that are dropped included
            for key in members:
                tree = parse_voc_xml(folder.xml[key])
                difficult += map(is_difficult, tree.findall("object"))
                path = folder.image(key, text_of(tree, "filename"))
                if path is None and folder.lists is None:
                    reader.leave_out("annotation files without an image", str(folder.xml[key]))
                    continue
                path = path or folder.images / f"{key}.jpg"  # reading its size reports one that is not there
                image_id = ids[folder.annotations, key]
                record = self._read_image(folder.xml[key], key, tree, path, image_id, labels, reader)
                if record is not None:
                    records.append(record)
            if folder.lists is None and name == self.split_name("train"):
                self._report_unused(folder, reader)
            if self._own is None and (file := folder.list_file(list_name)):
                compare_with_published(file, SplitCounts(len(members), difficult.count(False), difficult.count(True)))
        reader.report(f"{self._root()} ({name})", records, self.class_names)
        return records

    def _report_unused(self, folder: VOCFolder, reader: SplitReader) -> None:
        """Says which files of a set without lists no split has."""
        for key in sorted(folder.pictures.keys() - folder.xml.keys()):
            reader.leave_out("images without an annotation file", str(folder.pictures[key][0]))
        splits = dict.fromkeys([*SPLITS, *map(self.split_name, SPLITS)])
        used = {key for split in splits for key in folder.members(split) or ()}
        for key in sorted(folder.xml.keys() - used):
            reader.leave_out("annotation files outside of the splits", str(folder.xml[key]))

    def _all_folders(self) -> list[VOCFolder]:
        if self._own is not None:
            return [self._own]
        return [self._year(year) for year in self.years if (self._devkit() / f"VOC{year}").is_dir()]

    def _read_image(
        self,
        file: Path,
        name: str,
        tree: Element,
        path: Path,
        image_id: int,
        labels: dict[str, int],
        reader: SplitReader,
    ) -> ImageRecord | None:
        if (header := self._header(file, tree, path, reader)) is None:
            return None
        objects = tree.findall("object")  # direct children: a `part` has a name and a box of its own
        for obj in objects:
            if text_of(obj, "name") not in labels:
                raise UserError(
                    f"{file}: unknown class {text_of(obj, 'name')!r} in <object><name>. Correct it, or list all "
                    f"classes as class_names; known are {', '.join(labels)}."
                )
        return reader.record(
            image_id,
            path,
            name,
            header.shown_size,
            np.array([corners(file, obj, self._is_zero_based) for obj in objects]),
            [labels[text_of(obj, "name")] for obj in objects],
            str(file),
            ignore=[is_difficult(obj) for obj in objects],
            orientation=header.orientation,
        )

    def _header(self, file: Path, tree: Element, path: Path, reader: SplitReader) -> ImageHeader | None:
        """Size from the image's header, for <size> is wrong or missing in many a set, and how the boxes see it turned.

        Labelling tools show an image as its EXIF orientation says, unless <size> is that of the stored image. None of
        an unreadable image without <size>, if bad images are skipped.
        """
        texts = [text_of(tree, f"size/{side}") for side in ("height", "width")]
        stated = (int(texts[0]), int(texts[1])) if all(t.isdigit() and int(t) for t in texts) else None
        header = reader.header(path, self.skip_bad_images, stated)
        if header is None or stated is None:
            return header
        if stated == header.stored_size != header.shown_size:
            return ImageHeader(*header.stored_size)
        if stated != header.shown_size:
            reader.remark("annotations state another <size> than their images have: are the boxes of these", str(file))
        return header

    @cached_property
    def _scan(self) -> tuple[list[str], float]:
        """Of all annotations of a set of the user's own the sorted names, and the least left or top of a box."""
        assert self._own is not None
        names, least = set[str](), math.inf
        for file in self._own.xml.values():
            for obj in parse_voc_xml(file).findall("object"):
                names.add(text_of(obj, "name"))
                with suppress(ValueError):  # said with the file's name when its split is read
                    least = min(least, *(float(text_of(obj, f"bndbox/{side}") or "inf") for side in ("xmin", "ymin")))
        return sorted(names - {""}), least

    @cached_property
    def _is_zero_based(self) -> bool:
        """Whether corners count from 0 and are continuous, as labelling tools but not VOC's own files have them."""
        if self._own is None:
            return False
        is_zero_based = self._scan[1] < 1
        how = "0-based, because some are less than 1" if is_zero_based else "VOC's, from 1 on, because none is less"
        info(f"{self._root()}: corners are read as {how}.")
        return is_zero_based

    def _names_found(self) -> list[str]:
        names = self._scan[0]
        if not names:
            assert self._own is not None
            raise UserError(f"No <object><name> in any .xml of {self._own.annotations}: nothing to learn there.")
        return names
