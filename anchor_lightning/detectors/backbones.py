"""DarkNet-19, the backbone of YOLOv2 (Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017)."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

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


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, rounded to a multiple of 8 and at least 8."""
    return max(8, round(channels * width / 8) * 8)


class ConvBlock(nn.Sequential):
    """Convolution without bias (kernel 1 or 3), batch norm, leaky ReLU (slope 0.1); keeps height and width."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, a=LEAKY_SLOPE)
        norm = nn.BatchNorm2d(out_channels, eps=BN_EPSILON)
        super().__init__(convolution, norm, nn.LeakyReLU(LEAKY_SLOPE, inplace=True))


class DarkNet19(nn.Module):
    """The 18 convolutions of DarkNet-19 below its classifier; `width` multiplies all channel counts."""

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
        self.fine_channels = scaled(STAGES[-2][-1][0], width)
        self.coarse_channels = channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features at strides 16 and 32 of (B, 3, H, W) RGB images in [0, 1]; H and W are multiples of 32."""
        fine = self.to_stride_16(images)
        return fine, self.to_stride_32(fine)
