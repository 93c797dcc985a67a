"""torchvision's Faster R-CNN, RetinaNet and SSD with anchors that learn."""

from anchor_lightning.detectors.torchvision.detector import SSD, FasterRCNN, RetinaNet

__all__ = ["SSD", "FasterRCNN", "RetinaNet"]
