"""Anchor boxes that a detector learns by itself, after Zhong, Wang, Peng & Zhang."""

from anchor_lightning.anchors import AnchorOptions, AnchorShapes
from anchor_lightning.callbacks.learn_anchors import LearnAnchors
from anchor_lightning.detectors.torchvision.convert import anchor_shapes, freeze_anchors, make_anchors_learnable
from anchor_lightning.task import DetectionTask

__all__ = [
    "AnchorOptions",
    "AnchorShapes",
    "DetectionTask",
    "LearnAnchors",
    "anchor_shapes",
    "freeze_anchors",
    "make_anchors_learnable",
]
