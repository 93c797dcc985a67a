"""The images or the video that `predict --source` names, and the names of what comes of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from anchor_lightning.data.images import IMAGE_SUFFIXES
from anchor_lightning.errors import UserError


def find_files(source: str) -> list[Path]:
    """The image files, sorted, or the one video that an image, a folder, a glob or a video stands for.

    Raises:
        UserError: There are none.
    """
    path = Path(source)
    if path.is_dir():
        found = [file for file in path.iterdir() if _is_image(file) and not file.name.startswith(".")]
        hint = f"; for the folders in it give a glob, as in '{path}/**/*.jpg'"
    elif path.exists():
        return [path]
    elif glob.has_magic(source):
        names = glob.glob(source, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        found = [file for name in names if _is_image(file := Path(name))]
        hint = "; a video is given alone, by its name"
    else:
        raise UserError(f"--source: there is no file or folder {source}")
    if not found:
        raise UserError(f"--source: {source} holds no images ({', '.join(IMAGE_SUFFIXES)}){hint}")
    return sorted(found)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()


def picture_names(files: Sequence[Path]) -> list[str]:
    """A name for each annotated image: the source's, `.jpg` or `.png`, numbered where an earlier one has it already."""
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        suffix = ".jpg" if file.suffix.lower() in (".jpg", ".jpeg") else ".png"
        name, number = f"{file.stem}{suffix}", 1
        while name.lower() in taken:  # some file systems take A.jpg and a.jpg for the same
            number += 1
            name = f"{file.stem}-{number}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


def name_of(source: str, files: Sequence[Path]) -> str:
    """A name for the output folder: the source's own, or that of the folder that a glob's files share."""
    path = Path(source)
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.exists() else shared_folder(files).name


def shared_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that holds all files."""
    return Path(os.path.commonpath([file.parent.resolve() for file in files]))
