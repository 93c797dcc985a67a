"""Where the files of a data set lie: folders of images, and paths that were written on another machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from anchor_lightning.data.formats.common import exists
from anchor_lightning.data.images import IMAGE_SUFFIXES


def expand(path: str | Path) -> Path:
    """A path with `~` replaced by the home folder."""
    return Path(path).expanduser()


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and the folders in it, linked ones too, without hidden ones; in no particular order."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent) / name for name in files if not name.startswith("."))


def is_image(path: Path) -> bool:
    """Whether a name is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def images_below(folder: Path) -> list[Path]:
    """The image files of `files_below`, sorted."""
    return sorted(filter(is_image, files_below(folder)))


def find(written: str, bases: Iterable[Path]) -> Path | None:
    """The file or folder that a path in a data set's files means; None if there is none.

    It is as written, below one of the bases (the likeliest first). Failing that, backslashes are taken for slashes, and
    leading folders, of the machine that it was written on, are left out one by one until one of the bases has the rest.
    """
    bases = list(bases)
    portable = written.replace("\\", "/")
    parts = [part for part in PurePosixPath(portable).parts if part not in ("/", "..", ".")]
    if parts and parts[0].endswith(":"):  # a drive
        parts = parts[1:]
    tails = ["/".join(parts[first:]) for first in range(len(parts))]
    for text in dict.fromkeys((written, portable, *tails)):
        for base in bases:
            if exists(path := base / expand(text)):
                return path
    return None
