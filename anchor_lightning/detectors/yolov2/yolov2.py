"""YOLOv2 as one module: images in, raw predictions out; its loss and its post-processing beside it."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from anchor_lightning.detectors.yolov2.darknet import DarkNet19
from anchor_lightning.detectors.yolov2.head import Neck, RegionHead
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.detectors.yolov2.postprocess import postprocess
from anchor_lightning.structures import Assignment, DetectionBatch, Detections, Predictions


class YOLOv2(nn.Module):
    """YOLOv2 on DarkNet-19 (Redmon & Farhadi 2017), which holds no anchors: the shapes are handed to it.

    Args:
        num_anchors: A >= 1.
        num_classes: C >= 1.
        width: Channel multiplier; 1 is the published network.
        bn_without_shift: §3.2.3 on Δw and Δh.
        bn_scale_init: Start of that norm's scale γ.
    """

    stride: Final = 32

    def __init__(
        self,
        num_anchors: int,
        num_classes: int,
        width: float = 1.0,
        bn_without_shift: bool = True,
        bn_scale_init: float = 1.0,
    ) -> None:
        super().__init__()
        self.backbone = DarkNet19(width)
        self.neck = Neck(self.backbone.fine_channels, self.backbone.coarse_channels, width)
        self.head = RegionHead(self.neck.out_channels, num_anchors, num_classes, bn_without_shift, bn_scale_init)

    def forward(self, images: Tensor) -> Predictions:
        """Raw predictions for (B, 3, H, W) RGB images in [0, 1]; H and W are multiples of 32."""
        fine, coarse = self.backbone(images)
        return Predictions(self.head(self.neck(fine, coarse)), self.stride)

    def losses(
        self,
        predictions: Predictions,
        batch: DetectionBatch,
        assignment: Assignment,
        log_wh: Tensor,
        prior: Tensor | float = 0.0,
    ) -> dict[str, Tensor]:
        """The terms of `region_loss`."""
        return region_loss(predictions, batch, assignment, log_wh, prior)

    def postprocess(self, predictions: Predictions, log_wh: Tensor, score_threshold: float) -> list[Detections]:
        """The detections of `postprocess`, in pixels of the network input."""
        return postprocess(predictions, log_wh, score_threshold)

    def fold(self) -> None:
        """Folds the batch norm without shift away, in place, for inference and export."""
        self.head.fold()
