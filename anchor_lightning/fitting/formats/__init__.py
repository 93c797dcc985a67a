"""Anchor shapes in the files of other tools and of this project: `readers` and `writers`, over `AnchorSet`."""

from anchor_lightning.fitting.formats.anchor_set import RESIZED, AnchorSet, Resized
from anchor_lightning.fitting.formats.notes import DARKNET_RESIZES, export_notes
from anchor_lightning.fitting.formats.readers import FILES, READERS, read_json, read_shapes_file
from anchor_lightning.fitting.formats.targets import GRID_TARGETS, Target, targets_for
from anchor_lightning.fitting.formats.writers import anchors_text

__all__ = [
    "DARKNET_RESIZES",
    "FILES",
    "GRID_TARGETS",
    "READERS",
    "RESIZED",
    "AnchorSet",
    "Resized",
    "Target",
    "anchors_text",
    "export_notes",
    "read_json",
    "read_shapes_file",
    "targets_for",
]
