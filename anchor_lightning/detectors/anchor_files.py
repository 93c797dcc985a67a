"""Anchor options that name a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from anchor_lightning.anchors import AnchorOptions, anchor_options
from anchor_lightning.detectors.yolov2.darknet_cfg import read_anchors


def resolve_anchors(anchors: AnchorOptions | Mapping[str, Any] | None) -> AnchorOptions:
    """The options of the shapes, with the numbers of a darknet `.cfg` in the place of its path (for checkpoints).

    Raises:
        UserError: A key is unknown, or the file cannot be read.
    """
    options = anchor_options(dict(anchors)) if isinstance(anchors, Mapping) else anchors or AnchorOptions()
    if isinstance(options.init, str) and options.init.endswith(".cfg"):
        options = replace(options, init=read_anchors(options.init).tolist())
    init = options.init
    # No published YOLOv2 anchor is wider than 14 grid units: 13 are the whole image at 416 pixels.
    if not isinstance(init, str) and max((side for shape in init for side in shape), default=0) < 14:
        rank_zero_warn(
            "anchors.init: no side is above 14 pixels. If these are grid units of a YOLOv2 .cfg, multiply them by 32, "
            "or give the path of the .cfg."
        )
    return options
