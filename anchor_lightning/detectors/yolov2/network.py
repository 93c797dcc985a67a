"""YOLOv2 as one module: images in, raw predictions out; its loss and its post-processing beside it."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from anchor_lightning.anchors import AnchorShapes, assign, clustering_loss
from anchor_lightning.detectors.backbones import DarkNet19
from anchor_lightning.detectors.yolov2.head import Neck, RegionHead
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.detectors.yolov2.postprocess import postprocess
from anchor_lightning.structures import Assignment, DetectionBatch, Detections, Predictions, StepOptions


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
    is_two_stage: Final = False
    proposals: Final[tuple[Tensor, ...]] = ()

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

    def training_losses(self, batch: DetectionBatch, shapes: AnchorShapes, step: StepOptions) -> dict[str, Tensor]:
        """The terms of Eq. 11: those of `region_loss` with δ held fixed, and the clustering term."""
        log_wh = shapes.log_wh
        predictions = self(self._input(batch.images))
        assignment = assign(
            log_wh,
            batch.boxes_xyxy,
            batch.mask,
            (predictions.raw.shape[-2], predictions.raw.shape[-1]),
            predictions.stride,
            step.temperature,
            step.distance,
        )
        terms = self.losses(predictions, batch, assignment, log_wh, step.prior)
        # DDP averages gradients over the ranks, while Eq. 11 divides the sum over all of them by N.
        weight = step.clustering_weight * step.world_size
        clustering = clustering_loss(log_wh, assignment.log_wh, assignment.delta, step.num_boxes)
        return terms | {"loss_clustering": weight * clustering}

    def detect(self, images: Tensor, shapes: AnchorShapes, score_threshold: float) -> list[Detections]:
        """The detections of (B, 3, H, W) images, in pixels of the network input.

        Raises:
            ValueError: The network's output is not finite.
        """
        predictions = self(self._input(images))
        if not predictions.raw.isfinite().all():
            # The threshold would drop every NaN without a word, and a broken network score an honest 0.
            raise ValueError("The network's output is not finite.")
        return self.postprocess(predictions, shapes.log_wh, score_threshold)

    def _input(self, images: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype  # not float32 under trainer.precision bf16-true
        return images.to(dtype, memory_format=torch.channels_last)

    def postprocess(self, predictions: Predictions, log_wh: Tensor, score_threshold: float) -> list[Detections]:
        """The detections of `postprocess`, in pixels of the network input."""
        return postprocess(predictions, log_wh, score_threshold)

    def fold(self) -> None:
        """Folds the batch norm without shift away, in place, for inference and export."""
        self.head.fold()
