"""The data modules."""

from anchor_lightning.data.base import DetectionDataModule
from anchor_lightning.data.brainwash import BrainwashDataModule
from anchor_lightning.data.coco import COCODataModule
from anchor_lightning.data.synthetic import SyntheticDataModule
from anchor_lightning.data.voc import VOCDataModule
from anchor_lightning.data.yolo import YOLODataModule

__all__ = [
    "BrainwashDataModule",
    "COCODataModule",
    "DetectionDataModule",
    "SyntheticDataModule",
    "VOCDataModule",
    "YOLODataModule",
]
