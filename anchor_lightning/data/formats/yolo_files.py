"""The files that describe a YOLO set: ultralytics' `data.yaml`, darknet's `.data`, and lists of names and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from anchor_lightning.data.formats.common import distinct_names, read_text
from anchor_lightning.errors import UserError

SPLIT_NAMES: Final = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
DARKNET_SUFFIX: Final = ".data"
CLASSES_FILES: Final = ("classes.txt", "obj.names", "_darknet.labels")


def load_data_file(file: Path) -> dict[str, Any]:
    """The content of a `data.yaml` or `.data`, all values text, lists or dicts, with `val` also where it says `valid`.

    Raises:
        UserError: It is missing, is no YAML, or names no split.
    """
    text = read_text(file)
    if file.suffix == DARKNET_SUFFIX:
        pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
        content: Any = {key.strip(): value.strip() for key, value in pairs}
    else:
        try:
            # Without types: `names: [yes, no]` are the names of classes, not true and false.
            content = yaml.BaseLoader(text).get_single_data()
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{file}: is no YAML ({' '.join(str(error).split())}). Correct it.") from None
    if not isinstance(content, dict) or not {"train", "val", "valid"} & content.keys():
        raise UserError(f"{file}: has neither 'train' nor 'val'. It must be a YOLO data.yaml: path, train, val, names.")
    other = next((name for name in SPLIT_NAMES["val"] if content.get(name)), "val")
    return content | {"val": content.get(other)}


def names_of(names: Any, where: str) -> list[str]:
    """The classes of `names`, a list, or a dict with the keys 0, 1, 2, ….

    Raises:
        UserError: It is neither; names `where`.
    """
    if isinstance(names, dict) and set(names) == {str(number) for number in range(len(names))}:
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
        raise UserError(
            f"{where}: 'names' must be a list of names, or a dict with the keys 0, 1, 2, … without gaps. Correct it."
        )
    return distinct_names(names, f"{where}: 'names'")


def class_lines(file: Path) -> list[str]:
    """The names of classes in a file with one a line."""
    lines = [line.strip() for line in read_text(file).splitlines()]
    return distinct_names([line for line in lines if line], str(file))


def keypoints_of(content: dict[str, Any], where: str) -> tuple[int, int] | None:
    """`kpt_shape`, the number of keypoints of an object and the numbers of each, if it is given.

    Raises:
        UserError: It is no pair of a number and 2 or 3; names `where`.
    """
    if (given := content.get("kpt_shape")) is None:
        return None
    if isinstance(given, list) and len(given) == 2 and given[0].isdigit() and given[1] in ("2", "3"):
        return int(given[0]), int(given[1])
    raise UserError(f"{where}: kpt_shape must be [number of keypoints, 2 or 3], got {given!r}. Correct it.")
