"""The first shapes of a training out of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anchor_lightning.anchors import AnchorOptions, anchor_options, split_levels
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import READERS, RESIZED, AnchorSet, read_shapes_file
from anchor_lightning.messages import warn


def resolve_anchors(
    anchors: AnchorOptions | Mapping[str, Any] | None, image_size: Sequence[int] | None = None
) -> AnchorOptions:
    """The options of the shapes, for checkpoints with the shapes and levels of a file (see `READERS`), not its path.

    Shapes that were made for another input than `image_size`, height and width in pixels, are warned of.

    Raises:
        UserError: A key is unknown, or the file cannot be read.
    """
    options = anchor_options(dict(anchors)) if isinstance(anchors, Mapping) else anchors or AnchorOptions()
    init = options.init
    if isinstance(init, str) and Path(init).suffix.lower() in READERS:
        try:
            found = read_shapes_file(init)
        except UserError as error:
            raise UserError(error.message, argument="anchors.init") from None
        _warn_of_frame(init, found, image_size)
        levels = [level.tolist() for level in found.wh.split(list(found.per_level))]
        options = replace(options, init=levels if found.levels > 1 else found.wh.tolist())
    init = options.init
    # No published YOLOv2 anchor is wider than 14 grid units: 13 are the whole image at 416 pixels.
    if not isinstance(init, str) and max((side for shape in split_levels(init)[0] for side in shape), default=0) < 14:
        warn(
            "anchors.init: no side is above 14 pixels. If these are grid units of a YOLOv2 .cfg, multiply them by 32, "
            "or give the path of the .cfg."
        )
    return options


def _warn_of_frame(path: str, anchors: AnchorSet, image_size: Sequence[int] | None) -> None:
    if anchors.image_size is not None and image_size is not None and anchors.image_size != tuple(image_size):
        (height, width), (here_height, here_width) = anchors.image_size, image_size
        warn(
            f"anchors.init: the shapes of {path} are for a network input of {width} x {height} pixels (w x h), and are "
            f"taken as they are at {here_width} x {here_height}; train at that size, or fit them again for this one."
        )
    if anchors.resize == "letterbox":
        warn(
            f"anchors.init: the shapes of {path} are for images {RESIZED['letterbox']}, which training here does not "
            "do; unless all images have the aspect of the network input, fit them again with resize stretch."
        )
