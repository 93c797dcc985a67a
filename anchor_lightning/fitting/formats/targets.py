"""The tools that shapes are written for."""

from __future__ import annotations

from typing import Final, Literal

Target = Literal["darknet", "ultralytics", "mmdet", "torchvision", "json", "retinanet", "detectron2", "mmdet-anchor"]
GRID_TARGETS: Final[tuple[Target, ...]] = ("retinanet", "detectron2", "mmdet-anchor")
"""Tools whose generators know no free shapes, only the products of sizes, scales and ratios."""
STRIDES: Final = {1: (32,), 2: (16, 32), 3: (8, 16, 32), 4: (8, 16, 32, 64)}
"""By the number of levels: of YOLOv2, tiny YOLOv3, YOLOv3 to v5, YOLOv5-P6."""


def targets_for(levels: int) -> list[Target]:
    """The tools that take free shapes on a head with so many levels, the likeliest first."""
    if levels == 1:
        return ["darknet", "mmdet", "torchvision", "json"]
    if levels in STRIDES:
        return ["ultralytics", "darknet", "mmdet", "torchvision", "json"]
    return ["torchvision", "darknet", "json"]
