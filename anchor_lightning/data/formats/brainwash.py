"""Brainwash: heads in video frames, with annotations in `.idl` files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from anchor_lightning.data.annotated_set import AnnotatedSet
from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.formats.common import SplitReader
from anchor_lightning.data.formats.detect import BRAINWASH, other_kind
from anchor_lightning.errors import UserError

LINE = re.compile(r'"(?P<name>[^"]+)"\s*(?::(?P<boxes>.*))?', re.DOTALL)
# No two parts may take the same letters: a damaged line of a few thousand digits would take minutes.
NUMBER = r"\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?nan|[-+]?inf)\s*"
BOX = re.compile(rf"\({NUMBER},{NUMBER},{NUMBER},{NUMBER}\)", re.IGNORECASE)


class BrainwashSet(AnnotatedSet):
    """Brainwash head detection, for those who hold a copy: its publisher withdrew it.

    `root` holds `brainwash_{train,val,test}.idl` and the images that they name.

    Args:
        image_size: Side, or height and width, in pixels of the training crops, which are at native scale.
        val_image_size: The same for evaluation, which stretches whole images; by default that of the frames.
        kwargs: See `AnnotatedSet`. A split is `train`, `val`, `test` or the name of an `.idl` file under `root`.

    Raises:
        UserError: A file is missing or a line is malformed; names file and line.
    """

    root_content = "the folder that holds the brainwash_*.idl files"
    native_crop = True

    def __init__(
        self,
        image_size: int | list[int] = 320,
        val_image_size: int | list[int] | None = [480, 640],  # noqa: B006 jsonargparse documents the value
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, val_image_size=val_image_size, **kwargs)

    @property
    def class_names(self) -> list[str]:
        """The one class."""
        return ["head"]

    def _file(self, name: str) -> Path:
        return self._root() / (name if name.endswith(".idl") else f"brainwash_{name}.idl")

    def _has_split(self, name: str) -> bool:
        return self._file(name).is_file()

    def _read_split(self, name: str) -> list[ImageRecord]:
        file = self._file(name)
        if not file.is_file():
            raise UserError(
                other_kind(self._root(), BRAINWASH)
                or f"{file}: no such annotations. The folder must hold brainwash_train.idl, brainwash_val.idl and "
                "brainwash_test.idl, or the splits must name other .idl files under it.",
                argument="root",
            )
        reader, records = SplitReader(), []
        for i, (image, boxes) in enumerate(parse_idl(file)):
            path = self._root() / image
            if (header := reader.header(path, self.skip_bad_images)) is not None:
                where, labels = f"{file}, {image}", [0] * len(boxes)
                records.append(reader.record(i + 1, path, path.stem, header.stored_size, boxes, labels, where))
        reader.report(str(file), records, self.class_names)
        return records


def parse_idl(file: Path) -> list[tuple[str, np.ndarray]]:
    """The lines of an `.idl` file: image name and (N, 4) float64 boxes as written, N = 0 for an image without heads.

    Raises:
        UserError: A line is not `"image": (x1, y1, x2, y2), …;`; names file and line. An image listed twice too.
    """
    parsed: dict[str, np.ndarray] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        ended = line.strip()
        match = LINE.fullmatch(ended[:-1] if ended.endswith((";", ".")) else ended)
        text = (match["boxes"] or "") if match else ""
        boxes = np.array([[float(v) for v in m.groups()] for m in BOX.finditer(text)]).reshape(-1, 4)
        if match is None or BOX.sub("", text).replace(",", "").strip():
            raise UserError(
                f'{file}, line {number}: expected "image": (x1, y1, x2, y2), …; but found {line.strip()[:80]!r}. '
                "Correct the line."
            )
        if match["name"] in parsed:
            raise UserError(f"{file}, line {number}: {match['name']!r} is listed before. Take one of the lines out.")
        parsed[match["name"]] = boxes
    return list(parsed.items())
