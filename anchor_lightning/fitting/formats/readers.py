"""Files that hold anchor shapes, by their suffix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats.anchor_set import RESIZED, AnchorSet
from anchor_lightning.fitting.formats.darknet import read_cfg
from anchor_lightning.fitting.formats.files import read_plain_file
from anchor_lightning.fitting.formats.mmdet import read_mmdet
from anchor_lightning.fitting.formats.ultralytics import read_model_yaml

FORMAT: Final = "anchor_lightning anchors"
FILES: Final = (
    "a JSON file of `anchors fit`, a darknet .cfg, a model .yaml of the YOLOv5 repository, a config .py of mmdet"
)


def read_json(text: str) -> AnchorSet:
    """The shapes in a text that `anchors_text` wrote as `json`.

    Raises:
        UserError: It is something else.
    """
    try:
        content = json.loads(text)
        size, resize = content["image_size"], content.get("resize")  # older files do not say how images were resized
        if content["format"] != FORMAT or resize not in (None, *RESIZED):
            raise KeyError
        per_level = tuple(int(num) for num in content.get("per_level", ()))
        anchors = AnchorSet(
            torch.tensor(content["anchors"], dtype=torch.float32).reshape(-1, 2),
            per_level,
            str(content["source"]),
            None if size is None else (int(size[0]), int(size[1])),
            {str(name): float(value) for name, value in content["score"].items()},
            resize,
        )
        # Older files have the levels' number only, and as many shapes on each.
        return anchors if per_level else anchors.in_levels(int(content["levels"]))
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, ArithmeticError, RecursionError):
        raise UserError("the text is no anchors.json of anchor_lightning (anchors fit writes one)") from None


def _read_json_file(path: Path) -> AnchorSet:
    text = read_plain_file(path, "anchors.json").decode(errors="replace")
    try:
        return read_json(text)
    except UserError as error:
        raise UserError(f"{path}: {error.message}") from None


READERS: Final[dict[str, Callable[[Path], AnchorSet]]] = {
    ".json": _read_json_file,
    ".cfg": read_cfg,
    ".yaml": read_model_yaml,
    ".yml": read_model_yaml,
    ".py": read_mmdet,
}
"""Suffix of a file with shapes -> what reads it; a `UserError` names the file."""


def read_shapes_file(path: Path | str) -> AnchorSet:
    """The shapes of a file, by its suffix (see `READERS`), with the frame that it states.

    Raises:
        UserError: It has another suffix, cannot be read or holds no shapes; names it and says why.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path}: a file with shapes is {FILES}")
    return READERS[path.suffix.lower()](path)
