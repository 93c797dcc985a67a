"""YOLOv3's network: images in, raw predictions at strides 8, 16 and 32 out; it holds no anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from anchor_lightning.detectors.backbones import Backbone, ConvBlock, DarkNet53, scaled
from anchor_lightning.detectors.yolo.head import RegionHead
from anchor_lightning.detectors.yolo.network import YOLONetwork
from anchor_lightning.structures import Predictions

STRIDES: Final = (8, 16, 32)
BRANCH_CHANNELS: Final = (128, 256, 512)  # of the 1x1 convolutions of the branch at each stride


class Branch(nn.Module):
    """The layers of one stride: what the coarser branch passes on is enlarged and joined, six convolutions, the head.

    Args:
        features: Channels of the backbone's features at this stride.
        passed: Channels that the coarser branch passes on; 0 for the coarsest.
        channels: Of the 1x1 convolutions; the 3x3 ones have twice as many.
        head_options: Of the `RegionHead`, behind its first.
    """

    def __init__(self, features: int, passed: int, channels: int, *head_options: float) -> None:
        super().__init__()
        # In the order of the published configuration, in which darknet's weights are read.
        self.reduce = ConvBlock(passed, channels, 1) if passed else None
        joined = features + channels if passed else features
        self.convolutions = nn.Sequential(
            ConvBlock(joined, channels, 1),
            ConvBlock(channels, 2 * channels, 3),
            ConvBlock(2 * channels, channels, 1),
            ConvBlock(channels, 2 * channels, 3),
            ConvBlock(2 * channels, channels, 1),
        )
        self.last = ConvBlock(channels, 2 * channels, 3)
        self.head = RegionHead(2 * channels, *head_options)  # type: ignore[arg-type]

    def forward(self, features: Tensor, passed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Raw predictions (B, A, 5 + C, H, W), and what is passed on (B, channels, H, W)."""
        if self.reduce is not None and passed is not None:
            enlarged = interpolate(self.reduce(passed), scale_factor=2.0, mode="nearest")
            features = torch.cat([enlarged, features], dim=1)
        passed = self.convolutions(features)
        return self.head(self.last(passed)), passed


class YOLOv3Network(YOLONetwork):
    """A backbone and a branch of layers for each of three strides (Redmon & Farhadi 2018); arguments as of `YOLOv3`.

    `num_per_level` are the numbers of shapes, the smallest stride first; `backbone` is DarkNet-53 of the same width if
    not given.
    """

    def __init__(
        self,
        num_per_level: Sequence[int],
        num_classes: int,
        width: float = 1.0,
        bn_without_shift: bool = True,
        bn_scale_init: float = 1.0,
        objectness_init: float = 0.5,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone or DarkNet53(width)
        options = (num_classes, bn_without_shift, bn_scale_init, objectness_init)
        branches, passed = list[Branch](), 0
        levels = [*zip(self.backbone.channels, BRANCH_CHANNELS, num_per_level, strict=True)]
        for features, channels, num_anchors in reversed(levels):
            own = scaled(channels, width)
            branches.append(Branch(features, passed, own, num_anchors, *options))
            passed = own
        self.branches = nn.ModuleList(branches)  # the coarsest first
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Predictions]:
        """Raw predictions for (B, 3, H, W) RGB images in [0, 1], the smallest stride first; H, W multiples of 32."""
        dtype = next(self.parameters()).dtype  # not float32 under trainer.precision bf16-true
        images = images.to(dtype, memory_format=torch.channels_last)
        levels, passed = list[Predictions](), None
        coarse_first = zip(reversed(self.backbone(images)), self.branches, reversed(STRIDES), strict=True)
        for features, branch, stride in coarse_first:
            raw, passed = branch(features, passed)
            levels.insert(0, Predictions(raw, stride))
        return levels

    def levels(self, images: Tensor) -> list[Predictions]:
        """See `YOLONetwork.levels`: three."""
        levels: list[Predictions] = self(images)
        return levels
