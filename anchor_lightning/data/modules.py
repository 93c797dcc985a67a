"""The data modules: the data sets with loaders for a trainer."""

from __future__ import annotations

from anchor_lightning.data.formats.brainwash import BrainwashSet
from anchor_lightning.data.formats.coco import COCOSet
from anchor_lightning.data.formats.voc import VOCSet
from anchor_lightning.data.formats.yolo import YOLOSet
from anchor_lightning.data.module import DetectionDataModule as DetectionDataModule
from anchor_lightning.data.synthetic import SyntheticSet


class BrainwashDataModule(BrainwashSet, DetectionDataModule):
    """Brainwash for a trainer: see `BrainwashSet`."""


class COCODataModule(COCOSet, DetectionDataModule):
    """COCO, or a set with its annotations, for a trainer: see `COCOSet`."""


class SyntheticDataModule(SyntheticSet, DetectionDataModule):
    """Synthetic scenes for a trainer: see `SyntheticSet`."""


class VOCDataModule(VOCSet, DetectionDataModule):
    """Pascal VOC, or a set in its layout, for a trainer: see `VOCSet`."""


class YOLODataModule(YOLOSet, DetectionDataModule):
    """A set with YOLO's labels for a trainer: see `YOLOSet`."""
