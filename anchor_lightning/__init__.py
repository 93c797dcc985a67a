"""Anchor boxes that a detector learns by itself, after Zhong, Wang, Peng & Zhang."""

from anchor_lightning.anchors import AnchorOptions, AnchorShapes
from anchor_lightning.task import DetectionTask

__all__ = ["AnchorOptions", "AnchorShapes", "DetectionTask"]
