"""What `predict` reads: the files that a source stands for, and each image as it is and as the network sees it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from anchor_lightning.commands.ahead import ahead
from anchor_lightning.data.images import IMAGE_SUFFIXES, image_header, read_image, reduced
from anchor_lightning.data.transforms import WHOLE_IMAGE, resize_window
from anchor_lightning.data.video import Video
from anchor_lightning.errors import UserError

TEXT_SUFFIXES: Final = ("", ".txt", ".json", ".xml", ".yaml", ".yml", ".csv", ".md")  # annotations beside images
READERS: Final = 2  # threads: one reads slower than an accelerator, or the network of a small detector, sees


class Prepared(NamedTuple):
    """The whole image (h, w, 3), the network input (H, W, 3), both uint8 RGB, and what `images.json` says besides."""

    whole: np.ndarray
    seen: np.ndarray
    entry: dict[str, Any]


def prepared_images(
    files: Sequence[Path], size: tuple[int, int], batch_size: int, skipped: list[str]
) -> Iterator[Prepared]:
    """The images that can be read; says of the others in `skipped` why not."""
    shared, names = shared_folder(files), picture_names(files)
    read = ahead(partial(_read, shared, size), zip(files, names, strict=True), READERS, batch_size)
    for image in track(read, "images", total=len(files), console=Console(stderr=True)):
        if isinstance(image, Prepared):
            yield image
        else:
            skipped.append(image)


def _read(shared: Path, size: tuple[int, int], file_and_name: tuple[Path, str]) -> Prepared | str:
    """The image, whose place is told within a folder, with the name of its picture; or why it cannot be read."""
    file, name = file_and_name
    inside = (file.parent.resolve() / file.name).relative_to(shared).as_posix()
    try:
        turn, enough = image_header(file).orientation, WHOLE_IMAGE.source_size(size)
        whole = source = read_image(file, orientation=turn)
        if all((side + 1) // 2 >= least for side, least in zip(whole.shape, enough, strict=False)):
            source = read_image(file, enough, orientation=turn)  # at a fraction of its size, as in validation
        return Prepared(whole, resize_window(source, WHOLE_IMAGE, size), {"file_name": inside, "picture": name})
    except ValueError as error:
        return str(error)


def prepared_frames(name: str, video: Video, size: tuple[int, int]) -> Iterator[Prepared]:
    """The frames of a video."""
    frames = track(video.frames, "frames", total=video.stated, console=Console(stderr=True))
    for index, whole in enumerate(frames):
        # Reduced before it is stretched, as `read_image` would do with a PNG.
        seen = resize_window(reduced(whole, WHOLE_IMAGE.source_size(size)), WHOLE_IMAGE, size)
        yield Prepared(whole, seen, {"file_name": name, "frame": index})


def find_files(source: str) -> list[Path]:
    """The image files, sorted, or the one video that an image, a folder, a glob or a video stands for."""
    path = Path(source)
    if path.is_dir():
        found = [file for file in path.iterdir() if not file.name.startswith(".")]
        hint = f"; for the folders in it give a glob, as in '{path}/**/*.jpg'"
    elif path.exists():
        return [path]
    elif glob.has_magic(source):
        found = [Path(name) for name in glob.glob(source, recursive=True)]  # noqa: PTH207 - Path.glob is relative
        hint = "; a video is given alone, by its name"
    else:
        raise UserError(f"there is no file or folder {source}", "source")
    suffixes = {file: file.suffix.lower() for file in found if file.is_file()}
    images = sorted(file for file, suffix in suffixes.items() if suffix in IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"{source} holds no images ({', '.join(IMAGE_SUFFIXES)}){hint}", "source")
    if others := [suffix for suffix in suffixes.values() if suffix not in (*IMAGE_SUFFIXES, *TEXT_SUFFIXES)]:
        print(f"Files of other kinds that are passed over: {len(others)} ({', '.join(sorted(set(others)))})")
    return images


def picture_names(files: Sequence[Path]) -> list[str]:
    """A name for each annotated image: the source's, `.jpg` or `.png`, numbered where an earlier one has it already."""
    names: dict[str, str] = {}  # by the name in small letters: some file systems take A.jpg and a.jpg for the same
    numbers: dict[str, int] = {}  # the last one that was given to a name; those up to it are taken
    for file in files:
        suffix = ".jpg" if file.suffix.lower() in (".jpg", ".jpeg") else ".png"
        name = whole = f"{file.stem}{suffix}"
        number = numbers.get(whole.lower(), 1)
        while name.lower() in names:
            number += 1
            name = f"{file.stem}-{number}{suffix}"
        names[name.lower()], numbers[whole.lower()] = name, number
    return list(names.values())


def name_of(source: str, files: Sequence[Path]) -> str:
    """A name for the output folder: the source's own, or that of the folder that a glob's files share."""
    path = Path(source)
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.exists() else shared_folder(files).name


def shared_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that holds all files."""
    return Path(os.path.commonpath([file.parent.resolve() for file in files]))
