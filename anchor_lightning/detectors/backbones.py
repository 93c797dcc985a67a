"""Backbones of the YOLO detectors, and the interface they share.

DarkNet-19 is of Redmon & Farhadi, "YOLO9000" (CVPR 2017), DarkNet-53 of their "YOLOv3" (2018).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anchor_lightning.errors import UserError

BN_EPSILON: Final = 1e-6  # inside the root; the C code adds it to the root itself
LEAKY_SLOPE: Final = 0.1

# Rows of convolutions (filters, kernel size) between the five 2x2 poolings; the fourth ends at stride 16.
STAGES: Final[tuple[tuple[tuple[int, int], ...], ...]] = (
    ((32, 3),),
    ((64, 3),),
    ((128, 3), (64, 1), (128, 3)),
    ((256, 3), (128, 1), (256, 3)),
    ((512, 3), (256, 1), (512, 3), (256, 1), (512, 3)),
    ((1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3)),
)

RESIDUALS: Final = (1, 2, 8, 8, 4)  # of DarkNet-53, behind each of the convolutions that halve height and width


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, rounded to a multiple of 8 and at least 8."""
    return max(8, round(channels * width / 8) * 8)


class ConvBlock(nn.Sequential):
    """Convolution without bias (kernel 1 or 3), batch norm, leaky ReLU (slope 0.1); divides both sides by `stride`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        padding = kernel_size // 2
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        nn.init.kaiming_normal_(convolution.weight, a=LEAKY_SLOPE)
        norm = nn.BatchNorm2d(out_channels, eps=BN_EPSILON)
        super().__init__(convolution, norm, nn.LeakyReLU(LEAKY_SLOPE, inplace=True))


class Backbone(nn.Module, ABC):
    """Base class of the backbones: images in, features at some strides out, the smallest first.

    Attributes:
        channels: Channels of the features at each stride.
    """

    channels: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The features of (B, 3, H, W) RGB images in [0, 1], one tensor a stride; H and W are multiples of 32."""

    @abstractmethod
    def stages(self) -> list[list[nn.Parameter]]:
        """The parameters of each stage, from the image on; a stage ends where the stride doubles."""

    def check(self) -> None:
        """Raises a `UserError` where what the trainer has made of the modules no longer computes the same."""
        return

    def freeze(self, num_stages: int | Literal["all"], norms: bool) -> None:
        """Stops the training of the first stages, and of all batch norms' scales, shifts and statistics if `norms`.

        Raises:
            UserError: There are fewer stages.
        """
        stages = self.stages()
        if num_stages == "all":
            num_stages = len(stages)
        if not isinstance(num_stages, int) or not 0 <= num_stages <= len(stages):
            raise UserError(f"{num_stages}, but there are {len(stages)} stages (or all)", argument="freeze_backbone")
        for parameter in (parameter for stage in stages[:num_stages] for parameter in stage):
            parameter.requires_grad_(False)
        for parameter in (p for norm in self._norms() for p in norm.parameters() if norms):
            parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Sets the mode; norms that are not trained stay in evaluation, with the statistics they have."""
        super().train(mode)
        for norm in self._norms():
            if norm.affine and not norm.weight.requires_grad:
                norm.eval()
        return self

    def _norms(self) -> list[_BatchNorm]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]


class DarkNet19(Backbone):
    """DarkNet-19's 18 convolutions below its classifier, features at strides 16 and 32; `width` scales the channels."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = 3
        stages: list[nn.Sequential] = []
        for index, rows in enumerate(STAGES):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if index else []
            for filters, kernel_size in rows:
                layers.append(ConvBlock(channels, scaled(filters, width), kernel_size))
                channels = scaled(filters, width)
            stages.append(nn.Sequential(*layers))
        self.to_stride_16 = nn.Sequential(*stages[:-1])
        self.to_stride_32 = stages[-1]
        self.channels = (scaled(STAGES[-2][-1][0], width), channels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Backbone.forward`."""
        fine = self.to_stride_16(images)
        return fine, self.to_stride_32(fine)

    def stages(self) -> list[list[nn.Parameter]]:
        """See `Backbone.stages`: six."""
        return [list(stage.parameters()) for stage in (*self.to_stride_16, self.to_stride_32)]


class Residual(nn.Sequential):
    """DarkNet-53's block: a 1x1 convolution to half the channels, a 3x3 one back, and the input added."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__(ConvBlock(channels, inner, 1), ConvBlock(inner, channels, 3))

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, H, W) as the input."""
        changed: Tensor = super().forward(features)  # type: ignore[no-untyped-call]  # nn.Sequential is untyped
        return features + changed


class DarkNet53(Backbone):
    """DarkNet-53's 52 convolutions below its classifier, features at strides 8, 16, 32; `width` scales the channels."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = [scaled(32 * 2**index, width) for index in range(len(RESIDUALS) + 1)]
        self.stem = ConvBlock(3, channels[0], 3)
        self.levels = nn.ModuleList(
            nn.Sequential(ConvBlock(before, after, 3, stride=2), *(Residual(after, before) for _ in range(num)))
            for before, after, num in zip(channels[:-1], channels[1:], RESIDUALS, strict=True)
        )
        self.channels = tuple(channels[-3:])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Backbone.forward`."""
        features = [self.stem(images)]
        for level in self.levels:
            features.append(level(features[-1]))
        return tuple(features[-3:])

    def stages(self) -> list[list[nn.Parameter]]:
        """See `Backbone.stages`: six."""
        return [list(stage.parameters()) for stage in (self.stem, *self.levels)]
