"""YOLOv2 with learnable anchors: one level at stride 32, and the region loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.detectors.backbones import Backbone, DarkNet19
from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.detectors.yolov2.darknet_cfg import cfg_text
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from anchor_lightning.errors import UserError
from anchor_lightning.structures import Assignment, DetectionBatch, Predictions, StepOptions


class YOLOv2(YOLO):
    """YOLOv2 (Redmon & Farhadi 2017) on DarkNet-19 or a network of timm, with the paper's learnable anchors.

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes.
        image_size: Not read: the shapes are in pixels.
        backbone: The name of a timm network with features at strides 16 and 32 (the extra `timm`); `darknet19` if not
            given.
        prior_images: Images for which anchors without a box are pulled to the prior, as in darknet; 0 is off.
        options: As of `YOLO`.

    Raises:
        UserError: An option is out of its range, or does not go with another.
    """

    darknet_backbone: ClassVar[str] = "darknet19"
    strides: ClassVar[tuple[int, ...]] = (32,)
    backbone_strides: ClassVar[tuple[int, ...]] = (16, 32)
    num_shapes: ClassVar[int] = 5
    multi_label: ClassVar[bool] = False
    cfg_remark: ClassVar[str] = "; the .cfg has them in grid units (pixels / 32)"
    network: YOLOv2Network

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        backbone: str | None = None,
        prior_images: int = 12800,
        **options: Any,
    ) -> None:
        if prior_images < 0:
            raise UserError(f"{prior_images} must be 0 or more", argument="prior_images")
        super().__init__(num_classes, anchors, image_size, backbone=backbone, **options)
        self.prior_images = prior_images

    def _make_darknet(self, width: float) -> Backbone:
        return DarkNet19(width)

    def _make_network(self, num_per_level: Sequence[int], *options: Any) -> YOLOv2Network:
        (num_anchors,) = num_per_level
        return YOLOv2Network(num_anchors, *options)

    def darknet_cfg(self, image_size: tuple[int, int], score_threshold: float, comment: str) -> str:
        """See `cfg_text`."""
        num_classes = self.network.head.num_classes
        return cfg_text(self.anchors.wh, num_classes, image_size, self.width, score_threshold, comment)

    def _level_loss(
        self, level: Predictions, batch: DetectionBatch, assignment: Assignment, log_wh: Tensor, step: StepOptions
    ) -> dict[str, Tensor]:
        prior = (self.images_before + step.images_seen < self.prior_images).float()
        return region_loss(level, batch, assignment, log_wh, prior)
