"""YOLOv3 on DarkNet-53."""

from anchor_lightning.detectors.yolov3.detector import YOLOv3

__all__ = ["YOLOv3"]
