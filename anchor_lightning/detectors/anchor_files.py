"""Anchor options that name a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from lightning.pytorch.utilities import rank_zero_warn

from anchor_lightning.anchors import AnchorOptions, anchor_options
from anchor_lightning.detectors.yolov2.darknet_cfg import read_anchors

LARGEST_GRID_UNIT: Final = 14
"""No published YOLOv2 anchor is wider: 13 units are the whole image at 416 pixels."""


def resolve_anchors(anchors: AnchorOptions | Mapping[str, Any] | None) -> AnchorOptions:
    """The options of the shapes, with the numbers of a darknet `.cfg` in the place of its path.

    A checkpoint holds a dict, which must not need the file.

    Raises:
        UserError: A key is unknown, or the file cannot be read.
    """
    options = anchor_options(dict(anchors)) if isinstance(anchors, Mapping) else anchors or AnchorOptions()
    if isinstance(options.init, str) and options.init.endswith(".cfg"):
        options = replace(options, init=read_anchors(options.init).tolist())
    init = options.init
    if not isinstance(init, str) and max((side for shape in init for side in shape), default=0) < LARGEST_GRID_UNIT:
        rank_zero_warn(
            f"anchors.init: no side is above {LARGEST_GRID_UNIT} pixels. If these are grid units of a YOLOv2 .cfg, "
            "multiply them by 32, or give the path of the .cfg."
        )
    return options
