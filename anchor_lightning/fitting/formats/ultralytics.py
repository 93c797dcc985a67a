"""The anchors of the model files of the YOLOv5 repository and of those that took its form (YOLOv3, YOLOv7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats.anchor_set import AnchorSet, stack_levels, stated_frame
from anchor_lightning.fitting.formats.files import read_plain_file


def read_model_yaml(path: Path) -> AnchorSet:
    """The anchors of a model yaml: a list a level, in pixels of a letterboxed input whose size the file does not state.

    Raises:
        UserError: The file cannot be read or holds no such list; names it and says why.
    """
    text = read_plain_file(path, "model yaml of YOLOv5").decode(errors="replace")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{path} is no YAML that can be read") from None
    anchors = content.get("anchors") if isinstance(content, dict) else None
    if anchors is None:
        raise UserError(
            f"{path} has no `anchors:`; give the model yaml of a YOLOv5, YOLOv3 or YOLOv7 (models of the package "
            "ultralytics, YOLOv8 and later, have none)"
        )
    if isinstance(anchors, int):
        raise UserError(f"{path}: `anchors: {anchors}` is a number of shapes that YOLOv5 fits itself, and no shapes")
    size, resize = stated_frame(text)
    levels = _levels(path, anchors)
    areas = [sum(w * h for w, h in level) / len(level) for level in levels]
    # The smallest stride first; YOLOv5 turns them round where the last have the smaller areas, and so do we.
    wh, per_level = stack_levels(levels, range(len(levels)) if areas[0] <= areas[-1] else range(len(levels), 0, -1))
    return AnchorSet(wh, per_level, str(path), size, resize=resize or "letterbox")


def _levels(path: Path, anchors: Any) -> list[list[list[float]]]:
    """[[w, h], …] of every level, each of which the file gives as [w, h, w, h, …] or as pairs."""
    levels = []
    for level in anchors if isinstance(anchors, list) and anchors else [None]:
        pairs = level if isinstance(level, list) else []
        if not any(isinstance(item, list) for item in pairs):
            pairs = [pairs[start : start + 2] for start in range(0, len(pairs), 2)]
        if not pairs or not all(_is_pair(pair) for pair in pairs):
            raise UserError(f"{path}: `anchors` is no list of levels, each [w, h, w, h, ...] with positive numbers")
        levels.append(pairs)
    return levels


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(side, int | float) and 0 < side < 1e6 for side in pair)
    )
