"""The detector of a task's options, and the weights that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lightning.pytorch.utilities import rank_zero_info

from anchor_lightning.anchors import AnchorOptions, AnchorShapes, initial_shapes, num_shapes
from anchor_lightning.detectors.torchvision.detector import STOCK_DETECTORS, StockDetector
from anchor_lightning.detectors.yolov2 import YOLOv2
from anchor_lightning.detectors.yolov2.darknet_weights import read_backbone, read_weights

DETECTORS: Final = ("yolov2", *STOCK_DETECTORS)
"""What `model.detector` may be."""
WEIGHTS: Final = ("weights", "backbone_weights", "weights_backbone")
"""Options that name a file of weights to start from."""
Detector = YOLOv2 | StockDetector


def build_detector(options: Mapping[str, Any], anchors: AnchorOptions) -> tuple[Detector, AnchorShapes]:
    """The detector that a task's hyper-parameters ask for, with random weights, and the owner of its shapes.

    Raises:
        ValueError: The shapes do not fit the detector.
    """
    num_classes = options["num_classes"]
    if options["detector"] != "yolov2":
        pretrained = bool(options["weights_backbone"])
        detector = StockDetector(options["detector"], num_classes, anchors, pretrained, options["image_size"])
        return detector, detector.shapes
    num = num_shapes(anchors.init, anchors.num)
    shapes = AnchorShapes(num, initial_shapes(anchors.init, anchors.num), learn=anchors.learn)
    norm = (options["bn_without_shift"], options["bn_scale_init"])
    return YOLOv2(num, num_classes, options["width"], *norm), shapes


def start_network(detector: Detector, options: Mapping[str, Any]) -> int:
    """Gives the network its first weights, in place, and says which.

    Returns:
        Images that darknet's weights of a whole YOLOv2 were trained on; else 0.

    Raises:
        ValueError: A file of weights is missing or does not fit.
    """
    weights, backbone_weights, weights_backbone = (options[name] for name in WEIGHTS)
    if isinstance(detector, StockDetector):
        if weights_backbone:
            detector.load_backbone(weights_backbone)
            rank_zero_info(f"The backbone starts from {weights_backbone}.")
        else:
            rank_zero_info("The network starts from random weights (model.weights_backbone).")
        return 0
    if weights:
        images_before = read_weights(weights, detector)
        rank_zero_info(f"The network starts from {weights}, trained on {images_before:,} images.")
        return images_before
    if backbone_weights:
        seen = read_backbone(backbone_weights, detector.backbone)
        rank_zero_info(f"The backbone starts from {backbone_weights}, trained on {seen:,} images.")
    else:
        rank_zero_info(
            "The network starts from random weights; the paper's backbone was pretrained on ImageNet "
            "(model.backbone_weights)."
        )
    return 0
