"""YOLOv2's network: images in, raw predictions out; it holds no anchors."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from anchor_lightning.detectors.backbones import Backbone, DarkNet19
from anchor_lightning.detectors.yolov2.head import Neck, RegionHead
from anchor_lightning.structures import Predictions


class YOLOv2Network(nn.Module):
    """A backbone, YOLOv2's neck and the region head (Redmon & Farhadi 2017); arguments as of `YOLOv2`.

    `backbone` is DarkNet-19 of the same width if not given.
    """

    stride: Final = 32

    def __init__(
        self,
        num_anchors: int,
        num_classes: int,
        width: float = 1.0,
        bn_without_shift: bool = True,
        bn_scale_init: float = 1.0,
        objectness_init: float = 0.5,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone or DarkNet19(width)
        self.neck = Neck(self.backbone.fine_channels, self.backbone.coarse_channels, width)
        self.head = RegionHead(
            self.neck.out_channels, num_anchors, num_classes, bn_without_shift, bn_scale_init, objectness_init
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Predictions:
        """Raw predictions for (B, 3, H, W) RGB images in [0, 1]; H and W are multiples of 32."""
        dtype = next(self.parameters()).dtype  # not float32 under trainer.precision bf16-true
        images = images.to(dtype, memory_format=torch.channels_last)
        fine, coarse = self.backbone(images)
        return Predictions(self.head(self.neck(fine, coarse)), self.stride)

    def fold(self) -> None:
        """Folds the batch norm without shift away, in place, for inference and export."""
        self.head.fold()
