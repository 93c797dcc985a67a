"""YOLOv2 on DarkNet-19."""

from anchor_lightning.detectors.yolov2.detector import YOLOv2

__all__ = ["YOLOv2"]
