"""The detectors, each a class with options of its own."""

from anchor_lightning.detectors.base import Detector
from anchor_lightning.detectors.torchvision import SSD, FasterRCNN, RetinaNet
from anchor_lightning.detectors.yolov2 import YOLOv2
from anchor_lightning.detectors.yolov3 import YOLOv3

__all__ = ["SSD", "Detector", "FasterRCNN", "RetinaNet", "YOLOv2", "YOLOv3"]
