"""Where the annotations and images of a set with VOC's XML lie: in VOC's folders, or as labelling tools leave them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from anchor_lightning.data.formats.common import read_text
from anchor_lightning.data.formats.places import files_below, is_image
from anchor_lightning.data.formats.yolo_files import SPLIT_NAMES
from anchor_lightning.errors import UserError

ANNOTATION_FOLDERS: Final = ("Annotations", "annotations", "annots", "labels", "xml")
IMAGE_FOLDERS: Final = ("JPEGImages", "images", "Images")
LISTS: Final = "ImageSets/Main"
CLASS_COLUMN: Final = (["1"], ["0"], ["-1"])  # of a list of one class: its images, those with difficult ones, others


@dataclass(frozen=True)
class VOCFolder:
    """A folder with VOC's XML: its annotation files and images, by the annotation's path below without suffix.

    Args:
        annotations: Folder of the `.xml` files, in folders of its own or not.
        images: Folder of the images; where it is that of the annotations, they lie beside each other.
        lists: Folder of the splits' lists; None if the set has none.
    """

    annotations: Path
    images: Path
    lists: Path | None

    @cached_property
    def xml(self) -> dict[str, Path]:
        """The annotation files, sorted by name."""
        files = (file for file in files_below(self.annotations) if file.suffix.lower() == ".xml")
        return dict(sorted((_name(file, self.annotations), file) for file in files))

    @cached_property
    def pictures(self) -> dict[str, list[Path]]:
        """The image files by their annotation's name, or their own; several of a name where they differ in the suffix.

        The annotation has the image's path, or, where no annotation has, its file name, which no other may have then.
        """
        found: dict[str, list[Path]] = defaultdict(list)
        for file in sorted(filter(is_image, files_below(self.images))):
            found[_name(file, self.images)].append(file)
        if self.images == self.annotations or found.keys() & self.xml.keys():
            return dict(found)
        annotations, images = _by_file_name(self.xml), _by_file_name(found)
        pairs = ((of_image, annotations.get(name, [])) for name, of_image in images.items())
        annotation_of = {image[0]: xml[0] for image, xml in pairs if len(image) == len(xml) == 1}
        return {annotation_of.get(name, name): files for name, files in found.items()}

    def image(self, name: str, stated: str) -> Path | None:
        """The image of an annotation, that of the `stated` file name if there are several; None if there is none.

        Raises:
            UserError: Several have its name, and none is the stated one.
        """
        found = self.pictures.get(name, [])
        if len(found) > 1:
            found = [file for file in found if file.name == Path(stated).name] or found
        if len(found) > 1:
            raise UserError(
                f"{self.xml[name]}: {' and '.join(map(str, found))} both have its name. Name the right one in "
                "<filename>, or remove the other."
            )
        return found[0] if found else None

    @property
    def _list_files(self) -> dict[str, Path]:
        """The lists by name, sorted."""
        files = self.lists.glob("*.txt") if self.lists is not None else ()
        return {file.stem: file for file in sorted(files) if not file.name.startswith(".")}

    def _class_lists(self, split: str) -> list[Path]:
        """The lists of the classes of a split, `CLASS_SPLIT.txt`: each names all its images, with 1, 0 or -1."""
        files = [file for name, file in self._list_files.items() if name.endswith(f"_{split}")]
        return [file for file in files if all(line.split()[1:][-1:] in CLASS_COLUMN for line in _lines(file))]

    def list_file(self, name: str) -> Path | None:
        """The list of a split; None if there is none."""
        return next((file for n in _names(name) if (file := self._list_files.get(n))), None)

    def split_lists(self, name: str) -> list[Path]:
        """The list of a split, or those of its classes where there is none, as of VoTT; empty without either."""
        if (file := self.list_file(name)) is not None:
            return [file]
        return next((files for n in _names(name) if (files := self._class_lists(n))), [])

    def train_list(self) -> str:
        """The list to train on if none is given: `train`, else `trainval`, else the only one."""
        lists = self._list_files
        if both := [name for name in ("train", "trainval") if name in lists]:
            return both[0]
        held_out = {*SPLIT_NAMES["val"], *SPLIT_NAMES["test"]}
        splits = {*lists, *held_out, "train", "trainval"}
        others = lists.keys() - held_out - {file.stem for split in splits for file in self._class_lists(split)}
        first = min(others, default="train")
        return first if len(others) == 1 or first.startswith("train") else "train"

    def no_such_split(self, name: str) -> UserError:
        """The error for a split that `members` does not find."""
        if self.lists is None:
            return UserError(
                f"{self.annotations}: no folder {name} with .xml files. Set the split to a folder that exists."
            )
        there = ", ".join(self._list_files) or "none"
        return UserError(
            f"{self.lists / name}.txt: no such list. Set the split to a list that exists (there are: {there}; "
            "`2007/test` names the list of one year)."
        )

    def members(self, name: str) -> list[str] | None:
        """The names of a split's annotations, in order; None if there is no such split.

        A split is a list, or a folder, such as `train`, of annotations or of images; without either all are `train`.

        Raises:
            UserError: A list names an annotation that does not exist.
        """
        if self.lists is not None:
            lists = self.split_lists(name)
            return [*dict.fromkeys(self._listed(line, f) for f in lists for line in _lines(f))] if lists else None
        folders = {key: self._first_folders(key) for key in self.xml}
        if not set().union(*folders.values()) & {alias for names in SPLIT_NAMES.values() for alias in names}:
            return list(self.xml) if name == "train" else None
        return [key for key, of_key in folders.items() if of_key & {*_names(name)}] or None

    def _first_folders(self, key: str) -> set[str]:
        """The folder that an annotation is in, the first below all of them, and that of its image."""
        files = [self.xml[key].relative_to(self.annotations)]
        files += [file.relative_to(self.images) for file in self.pictures.get(key, [])]
        return {file.parts[0] for file in files if len(file.parts) > 1}

    def _listed(self, line: str, file: Path) -> str:
        # The devkit's lists of one class have a second column; names may have blanks.
        for name in (line, line.rsplit(maxsplit=1)[0]):
            for text in (name, name.rsplit(".", 1)[0]):
                if text in self.xml:
                    return text
        raise UserError(
            f"{file}: lists {line!r}, but {self.annotations / line}.xml does not exist. Add the annotation or take the "
            "line out."
        )


def find_layout(root: Path) -> VOCFolder | None:
    """The layout of a set that is no devkit; None if no `.xml` is found where it may lie."""
    lists = root / LISTS
    images = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), None)
    for name in ANNOTATION_FOLDERS:
        if images is not None and _has_xml(folder := root / name):
            return VOCFolder(folder, images, lists if lists.is_dir() else None)
    beside = any(_has_xml(root / name, deep=False) for names in SPLIT_NAMES.values() for name in (*names, "."))
    return VOCFolder(root, root, None) if beside else None


def _has_xml(folder: Path, deep: bool = True) -> bool:
    if not folder.is_dir():
        return False
    files = files_below(folder) if deep else folder.iterdir()
    return any(file.suffix.lower() == ".xml" and not file.name.startswith(".") for file in files)


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _by_file_name(names: Iterable[str]) -> dict[str, list[str]]:
    """Names in folders, by their last part."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[name.rsplit("/", 1)[-1]].append(name)
    return found


def _names(split: str) -> tuple[str, ...]:
    return SPLIT_NAMES.get(split, (split,))


def _lines(file: Path) -> list[str]:
    """The lines of a list; one that comes twice is one image."""
    return list(dict.fromkeys(line.strip() for line in read_text(file).splitlines() if line.strip()))
