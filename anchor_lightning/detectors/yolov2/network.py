"""YOLOv2's network: images in, raw predictions out; it holds no anchors."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from anchor_lightning.detectors.backbones import Backbone, ConvBlock, DarkNet19, scaled
from anchor_lightning.detectors.yolo.head import RegionHead
from anchor_lightning.detectors.yolo.network import YOLONetwork
from anchor_lightning.structures import Predictions


def reorg(features: Tensor) -> Tensor:
    """Darknet's space to depth by 2, (B, C, H, W) to (B, 4 C, H / 2, W / 2); C a multiple of 4, H and W even."""
    batch, channels, height, width = features.shape
    phases = features.reshape(batch, channels // 4, height, 2, width, 2)  # (B, C/4, H, dy, W, dx)
    return phases.permute(0, 3, 5, 1, 2, 4).reshape(batch, 4 * channels, height // 2, width // 2)


class Neck(nn.Module):
    """YOLOv2's two extra convolutions, the passthrough from stride 16, and the convolution that joins them."""

    def __init__(self, fine_channels: int, coarse_channels: int, width: float) -> None:
        super().__init__()
        self.out_channels = scaled(1024, width)
        passed = scaled(64, width)
        self.coarse = nn.Sequential(
            ConvBlock(coarse_channels, self.out_channels, 3), ConvBlock(self.out_channels, self.out_channels, 3)
        )
        self.passthrough = ConvBlock(fine_channels, passed, 1)
        self.join = ConvBlock(4 * passed + self.out_channels, self.out_channels, 3)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, out_channels, H, W) at stride 32 from the features at strides 16 and 32."""
        # The passed features come first, as in the order of the published configuration's route layer.
        joined = torch.cat([reorg(self.passthrough(fine)), self.coarse(coarse)], dim=1)
        return self.join(joined)  # type: ignore[no-any-return]  # nn.Module calls are untyped


class YOLOv2Network(YOLONetwork):
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
        fine_channels, coarse_channels = self.backbone.channels
        self.neck = Neck(fine_channels, coarse_channels, width)
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

    def levels(self, images: Tensor) -> list[Predictions]:
        """See `YOLONetwork.levels`: the one."""
        return [self(images)]
