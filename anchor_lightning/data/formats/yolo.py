"""Data sets with YOLO's labels: a text file an image, as ultralytics' and darknet's tools read them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from anchor_lightning.data.annotated_set import SPLITS, AnnotatedSet, Split
from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.formats.common import SplitReader, distinct_names, exists, read_text
from anchor_lightning.data.formats.detect import YOLO, other_kind
from anchor_lightning.data.formats.places import expand, files_below, find, images_below, is_image
from anchor_lightning.data.formats.yolo_files import (
    CLASSES_FILES,
    DARKNET_SUFFIX,
    SPLIT_NAMES,
    class_lines,
    keypoints_of,
    load_data_file,
    names_of,
)
from anchor_lightning.data.formats.yolo_lines import read_label_file
from anchor_lightning.errors import UserError
from anchor_lightning.messages import info, warn

IMAGE_FOLDERS: Final = ("images", "JPEGImages")  # whose labels lie in a folder `labels` beside, as darknet has it
OTHER_KEYS: Final = ("path", "names", "nc")


class YOLOSet(AnnotatedSet):
    """A set whose labels are lines `class x y w h`: centre and size as shares of the image's width and height.

    The splits come from a `data.yaml` (`path`, `train`, `val`, `test`, `names`) or darknet's `.data` (`train`, `valid`,
    `names`), each a folder of images, a list of these, or a text file with one image path a line; without one, a split
    NAME is `images/NAME` or `NAME/images` (of COCO `images/train2017` and `images/val2017`), and `train` alone
    `images`, or all images of a folder. The labels of `…/images/a/b.jpg` and `…/JPEGImages/a/b.jpg` are
    `…/labels/a/b.txt`, else those beside the image; an image without a label file has no objects. Of an outline,
    `class x y x y …`, the enclosing box is taken; of a box with keypoints the box, by `kpt_shape` or where lines of the
    split cannot be outlines. By default test takes `test` if there is one, else `val`.

    Args:
        data_yaml: The file, a `data.yaml` or `.data`; relative to `root` if that is given. The default is `data.yaml`
            in `root`, if it exists.
        class_names: Names of the classes in the order of their numbers. The default is `names` of the `data.yaml`, then
            the lines of `classes.txt` in `root` or where the labels are, then `class 0` up to the highest number found.
        kwargs: See `AnnotatedSet`; `root` replaces the `path` of the `data.yaml`.

    Raises:
        UserError: A file or folder is missing or malformed; names it, with the line, and what to do.
    """

    root_content = "the folder of images/ and labels/, or give data_yaml"

    def __init__(self, data_yaml: str | None = None, class_names: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._said = set[Path]()
        self.data_yaml = self._find_file(data_yaml)
        self._content = {} if self.data_yaml is None else load_data_file(self.data_yaml)
        self._kpt_shape = keypoints_of(self._content, self._where())
        self._class_names = self._names_given() if class_names is None else distinct_names(class_names)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        if self._class_names is None:
            there = [name for name in dict.fromkeys(map(self.split_name, SPLITS)) if self._has_split(name)]
            files = [label_path_of(path) for name in there for path in self._images(name)]
            count = 1 + max(
                (line.label for f in files for line in read_label_file(f, None, self._kpt_shape)), default=-1
            )
            if not count:
                if self.root is not None and (other := other_kind(self.root, YOLO)) is not None:
                    raise UserError(other, argument="root")
                looked = f" (the first image's would be {files[0]})" if files else ""
                raise UserError(f"{self._where()}: no labels found to take the classes from{looked}. Give class_names.")
            self._class_names = [f"class {number}" for number in range(count)]
            warn(
                f"{self._where()}: no names of classes found (names in a data.yaml, {CLASSES_FILES[0]}, or "
                f"class_names); they are called {self._class_names[0]} to {self._class_names[-1]}."
            )
        return self._class_names

    def _find_file(self, data_yaml: str | None) -> Path | None:
        if data_yaml is None:
            default = self._root() / "data.yaml"
            return default if default.is_file() else None
        file = expand(data_yaml)
        return self.root / file if self.root is not None and not file.is_file() else file

    def _where(self) -> str:
        return str(self.data_yaml or self.root)

    def _bases(self) -> list[Path]:
        """Folders that the file's entries may be relative to, the likeliest first."""
        if self.data_yaml is None or self.root is not None:
            return [self._root()]
        beside = self.data_yaml.parent
        given = str(self._content.get("path") or "")
        # Many a `path` is of another machine, or relative to where training is started.
        return [found, beside] if given and (found := find(given, [beside, Path()])) else [beside]

    def _names_given(self) -> list[str] | None:
        names = self._content.get("names")
        if isinstance(names, str) and names and self.data_yaml is not None and self.data_yaml.suffix == DARKNET_SUFFIX:
            if (file := find(names, self._bases())) is None:
                raise UserError(f"{self._where()}: names: there is no {names}. Correct it, or give class_names.")
            return class_lines(file)
        if names:
            return names_of(names, self._where())
        bases = self._bases()
        places = [place for role in SPLITS if self._has_split(role) for place in self._places(role) if place.is_dir()]
        for folder in dict.fromkeys([*bases, *(base / "labels" for base in bases), *map(label_folder_of, places)]):
            for file in (folder / name for name in CLASSES_FILES):
                if exists(file):
                    return class_lines(file)
        return None

    def _place(self) -> str:
        return self._where()

    def _label_hint(self, path: Path) -> str:
        return f"The labels of {path} are looked for in {label_path_of(path)}, and beside the image."

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
            names = SPLIT_NAMES.get(name, (name,))
            inside = [place for n in names for place in (base / "images" / n, base / n / "images", base / n)]
            # COCO as ultralytics unpacks it; the images of test2017 have no labels.
            coco = [base / "images" / f"{name}2017"] if name in ("train", "val") else []
            whole = [base / "images", base] if name == "train" else []
            found = (p for p in (*inside, *coco, *whole) if p.is_dir() and any(map(is_image, files_below(p))))
            return [*islice(found, 1)]
        entry = self._content.get(name)
        entries = entry if isinstance(entry, list) else [entry] if entry else []
        if any(not isinstance(place, str) for place in entries):
            raise UserError(f"{self._where()}: {name}: must be a path or a list of paths. Correct the entry.")
        return [self._resolve(place, name) for place in entries]

    def _resolve(self, place: str, name: str) -> Path:
        # Exports of labelling services write `../train/images` into a file that lies beside `train`.
        if found := find(place, self._bases()):
            if found not in self._said and not any(found == base / expand(place) for base in self._bases()):
                info(f"{self._where()}: {name}: there is no {place}; {found} is taken for it.")
                self._said.add(found)
            return found
        raise UserError(
            f"{self._where()}: {name}: there is no {place}, nor its last parts, in "
            f"{' or '.join(map(str, dict.fromkeys(self._bases())))}. Correct the entry or 'path', or give the set's "
            "folder as root."
        )

    def _images(self, name: str) -> list[Path]:
        places = self._places(name)
        if not places:
            known = sorted(key for key, value in self._content.items() if value and key not in OTHER_KEYS)
            looked = (
                f"it has {', '.join(known) or 'none'}"
                if self.data_yaml
                else f"looked for images/{name} and {name}/images"
            )
            raise UserError(f"{self._where()}: there is no split {name!r} ({looked}). Correct root or the split.")
        return [path for place in places for path in _images_in(place, self._bases())]

    def _read_split(self, name: str) -> list[ImageRecord]:
        reader, paths = SplitReader(), self._images(name)
        label_files = [label_path_of(path) for path in paths]
        _check_stems(paths, label_files)
        of_images = [read_label_file(file, self.num_classes, self._kpt_shape) for file in label_files]
        # Many an outline may as well be a box with keypoints; some line of these can hardly be an outline.
        long_lines = [line for lines in of_images for line in lines if line.is_outline or line.keypoint_box]
        with_keypoints = any(not line.is_outline for line in long_lines)
        open_lines = [line for line in long_lines if line.is_outline and line.keypoint_box]
        if with_keypoints and open_lines:
            reader.note(
                f"{len(open_lines)} lines that may be outlines are read as boxes with keypoints, because others of the "
                "split can be nothing else; kpt_shape in data.yaml says so for certain."
            )
        elif open_lines and len(open_lines) == len(long_lines):
            reader.note(
                f"{len(long_lines)} lines of more than five numbers are read as outlines, and could all be boxes with "
                "keypoints; if they are, give kpt_shape in data.yaml."
            )
        records: list[ImageRecord] = []
        for path, file, lines in zip(paths, label_files, of_images, strict=True):
            reader.without_file += not exists(file)
            if (header := reader.header(path, self.skip_bad_images)) is None:
                continue
            corners = [(with_keypoints and line.keypoint_box) or line.box for line in lines]
            size = header.shown_size  # labelling tools show, and ultralytics reads, images as EXIF turns them
            boxes = np.array(corners).reshape(-1, 4) * np.tile(size[::-1], 2)
            labels = [line.label for line in lines]
            orientation = header.orientation
            records.append(
                reader.record(
                    len(records) + 1, path, path.name, size, boxes, labels, str(path), orientation=orientation
                )
            )
        for file in self._labels_without_image(name, set(label_files)):
            reader.leave_out("label files without an image", str(file))
        if self.data_yaml is None and name == self.split_name("train"):
            for path in self._labelled_outside():
                reader.leave_out("labelled images outside of the splits", str(path))
        reader.report(f"{self._where()} ({name})", records, self.class_names)
        return records

    def _labels_without_image(self, name: str, used: set[Path]) -> list[Path]:
        folders = {label_folder_of(place) for place in self._places(name) if place.is_dir()}
        found = [file for folder in folders if folder.is_dir() for file in files_below(folder)]
        return sorted(f for f in found if f.suffix == ".txt" and f.name not in CLASSES_FILES and f not in used)

    def _labelled_outside(self) -> list[Path]:
        """Images with labels below the set's folder that no split has."""
        splits = dict.fromkeys([*SPLITS, *map(self.split_name, SPLITS)])
        used = {file for name in splits for place in self._places(name) for file in files_below(place)}
        others = (file for file in files_below(self._root()) if is_image(file) and file not in used)
        return sorted(file for file in others if exists(label_path_of(file)))


def label_path_of(path: Path) -> Path:
    """The label file of an image: its last folder `images` or `JPEGImages` replaced by `labels`, else beside it."""
    beside, folder = path.with_suffix(".txt"), label_folder_of(path.parent)
    moved = folder / beside.name
    return beside if not exists(moved) and exists(beside) else moved


def label_folder_of(folder: Path) -> Path:
    """Where the labels of the images of a folder are expected; the folder itself if none above it is one of images."""
    images = next((f for f in (folder, *folder.parents) if f.name in IMAGE_FOLDERS), None)
    return folder if images is None else images.with_name("labels") / folder.relative_to(images)


def _images_in(place: Path, bases: list[Path]) -> list[Path]:
    """The images of a folder, of folders inside it too, or of a text file with one path a line."""
    if place.is_dir():
        return images_below(place)
    if place.suffix.lower() != ".txt":
        raise UserError(f"{place}: is neither a folder of images nor a .txt with image paths. Correct the split.")
    lines = dict.fromkeys(line.strip() for line in read_text(place).splitlines() if line.strip())
    # Paths are relative to the list; some tools write them relative to the set's folder.
    return [find(line, [place.parent, *bases]) or place.parent / line for line in lines]


def _check_stems(paths: list[Path], label_files: list[Path]) -> None:
    first: dict[Path, Path] = {}
    for path, file in zip(paths, label_files, strict=True):
        if (other := first.setdefault(file, path)) != path and exists(file):
            raise UserError(
                f"{other} and {path} have one label file, {file}: it is not known which its boxes are of. Rename or "
                "remove one."
            )
