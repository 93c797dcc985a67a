"""Texts for generators that know sizes, scales and ratios only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from anchor_lightning.fitting.formats.anchor_set import AnchorSet
from anchor_lightning.fitting.formats.targets import Target
from anchor_lightning.fitting.formats.writers import head_of
from anchor_lightning.fitting.size_grids import SizeGrid

SHARED: Final[tuple[Target, ...]] = ("retinanet", "mmdet-anchor")
"""Tools whose scales and ratios are those of all levels; detectron2 has sizes and ratios of every level."""


def grid_text(anchors: AnchorSet, grid: SizeGrid, to: Target, cost: str) -> str:
    """The text for a tool of `GRID_TARGETS`.

    Args:
        anchors: The free shapes that the grid stands for: frame and source.
        grid: Sizes and ratios.
        to: The tool.
        cost: What the constraint costs, in words.
    """
    ratio = "ratios are height / width"
    if to == "detectron2":
        hint = f"sizes are square roots of areas in pixels, a list a level, smallest stride first; {ratio}"
        sizes, ratios = (
            f"[{', '.join(f'[{_row(level)}]' for level in part.tolist())}]" for part in (grid.sides, grid.ratios)
        )
        return (
            f"{head_of(anchors, to, hint, cost)}MODEL:\n  ANCHOR_GENERATOR:\n    NAME: DefaultAnchorGenerator\n"
            f"    SIZES: {sizes}\n    ASPECT_RATIOS: {ratios}\n"
        )
    sizes, scales, ratios = _row(grid.sizes), _row(grid.scales), _row(grid.ratios[0].tolist())
    if to == "mmdet-anchor":
        hints = (
            f"base_sizes in pixels, smallest stride first, each times every scale; {ratio}. Put below `_base_` of a",
            "config, whose strides stay; of Faster R-CNN it is rpn_head instead of bbox_head.",
        )
        return (
            f"{head_of(anchors, to, *hints, cost)}"
            "model = dict(\n    bbox_head=dict(\n        anchor_generator=dict(\n            type='AnchorGenerator',\n"
            f"            base_sizes=[{sizes}],\n            scales=[{scales}],\n            ratios=[{ratios}],\n"
            "            octave_base_scale=None,\n            scales_per_octave=None)))\n"
        )
    hints = (
        "config.ini of keras-retinanet; the same sizes, scales and ratios suit others of its kind.",
        f"Sizes in pixels, smallest stride first; {ratio}.",
    )
    strides = " ".join(str(8 << level) for level in range(len(grid.sizes)))
    rows = {"sizes  ": sizes, "strides": strides, "ratios ": ratios, "scales ": scales}
    lines = "".join(f"{name} = {row.replace(',', '')}\n" for name, row in rows.items())
    return f"{head_of(anchors, to, *hints, cost)}[anchor_parameters]\n{lines}"


def _row(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)
