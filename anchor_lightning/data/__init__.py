"""The data modules."""

from anchor_lightning.data.formats.brainwash import BrainwashDataModule
from anchor_lightning.data.formats.coco import COCODataModule
from anchor_lightning.data.formats.voc import VOCDataModule
from anchor_lightning.data.formats.yolo import YOLODataModule
from anchor_lightning.data.module import DetectionDataModule
from anchor_lightning.data.synthetic import SyntheticDataModule

__all__ = [
    "BrainwashDataModule",
    "COCODataModule",
    "DetectionDataModule",
    "SyntheticDataModule",
    "VOCDataModule",
    "YOLODataModule",
]
