"""From features to predictions: the batch norm without shift, and what the output channels mean."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from anchor_lightning.detectors.backbones import BN_EPSILON

NUM_BOX_CHANNELS: Final = 5  # Δx, Δy, Δw, Δh, objectness; the class logits follow
MAX_OFFSET: Final = 10.0  # Δw, Δh beyond it are clamped: the exponential would overflow


class BatchNormWithoutShift(nn.BatchNorm2d):
    """Batch norm with a scale γ but no shift (§3.2.3): its output has zero mean over the batch."""

    def __init__(self, num_features: int, scale_init: float = 1.0) -> None:
        super().__init__(num_features, eps=BN_EPSILON)
        self.register_parameter("bias", None)
        nn.init.constant_(self.weight, scale_init)


class RegionHead(nn.Module):
    """The last convolution: A x (5 + C) channels, Δw and Δh optionally through a batch norm without shift.

    With the norm, whose γ starts at `bn_scale_init`, their convolution has no bias. The objectness starts at
    `objectness_init` everywhere.
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        bn_without_shift: bool,
        bn_scale_init: float,
        objectness_init: float = 0.5,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_anchors, self.num_classes = in_channels, num_anchors, num_classes
        self.norm: BatchNormWithoutShift | None = None
        if bn_without_shift:
            self.wh = nn.Conv2d(in_channels, num_anchors * 2, 1, bias=False)
            self.norm = BatchNormWithoutShift(num_anchors * 2, bn_scale_init)
            self.rest = nn.Conv2d(in_channels, num_anchors * (3 + num_classes), 1)
        else:
            self.all = nn.Conv2d(in_channels, num_anchors * (NUM_BOX_CHANNELS + num_classes), 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        bias = self.all.bias if self.norm is None else self.rest.bias
        assert bias is not None
        place = 4 if self.norm is None else 2
        bias.data.unflatten(0, (num_anchors, -1))[:, place] = math.log(objectness_init / (1 - objectness_init))

    @property
    def num_channels(self) -> int:
        """A x (5 + C)."""
        return self.num_anchors * (NUM_BOX_CHANNELS + self.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, A, 5 + C, H, W) raw predictions from (B, in_channels, H, W)."""
        batch, _, height, width = features.shape
        if self.norm is None:
            return self.all(features).reshape(batch, self.num_anchors, -1, height, width)  # type: ignore[no-any-return]
        wh = self.norm(self.wh(features)).reshape(batch, self.num_anchors, 2, height, width)
        rest = self.rest(features).reshape(batch, self.num_anchors, -1, height, width)
        return torch.cat([rest[:, :, :2], wh, rest[:, :, 2:]], dim=2)

    @torch.no_grad()
    def fold(self) -> None:
        """Folds the norm into one plain convolution, in place: what is left is exactly the baseline's head."""
        if self.norm is None:
            return
        norm, anchors = self.norm, self.num_anchors
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        wh_weight = (self.wh.weight * gain[:, None, None, None]).unflatten(0, (anchors, 2))
        wh_bias = (-norm.running_mean * gain).unflatten(0, (anchors, 2))
        assert self.rest.bias is not None
        weight, bias = self.rest.weight.unflatten(0, (anchors, -1)), self.rest.bias.unflatten(0, (anchors, -1))
        self.all = nn.Conv2d(self.wh.in_channels, anchors * (NUM_BOX_CHANNELS + self.num_classes), 1).to(weight)
        assert self.all.bias is not None
        self.all.weight.copy_(torch.cat([weight[:, :2], wh_weight, weight[:, 2:]], dim=1).flatten(0, 1))
        self.all.bias.copy_(torch.cat([bias[:, :2], wh_bias, bias[:, 2:]], dim=1).flatten())
        self.norm = None
        del self.wh, self.rest

    @torch.no_grad()
    def load_plain(self, plain: nn.Conv2d) -> None:
        """Takes over the plain last convolution of a baseline, with bias and channels in the order of `forward`.

        A norm's running statistics are set to undo it in evaluation, so that `fold` gives the convolution back.
        """
        assert plain.bias is not None
        if self.norm is None:
            self.all.load_state_dict(plain.state_dict())
            return
        norm, anchors = self.norm, self.num_anchors
        assert norm.running_mean is not None and norm.running_var is not None and self.rest.bias is not None
        weight, bias = plain.weight.unflatten(0, (anchors, -1)), plain.bias.unflatten(0, (anchors, -1))
        self.wh.weight.copy_(weight[:, 2:4].flatten(0, 1))
        self.rest.weight.copy_(torch.cat([weight[:, :2], weight[:, 4:]], dim=1).flatten(0, 1))
        self.rest.bias.copy_(torch.cat([bias[:, :2], bias[:, 4:]], dim=1).flatten())
        norm.running_var.copy_(norm.weight.square() - norm.eps)
        norm.running_mean.copy_(-bias[:, 2:4].flatten())


def decode(raw: Tensor, log_wh: Tensor, stride: int) -> Tensor:
    """(B, A, 4, H, W) boxes `cxcywh` in pixels (§4.1): σ(Δx), σ(Δy) within the cell, e^Δ times the anchor's sides.

    Args:
        raw: (B, A, >= 4, H, W) raw predictions.
        log_wh: (A, 2) log sides of the shapes in pixels.
        stride: Pixels per cell.
    """
    height, width = raw.shape[-2:]
    column = torch.arange(width, device=raw.device, dtype=raw.dtype)
    row = torch.arange(height, device=raw.device, dtype=raw.dtype)[:, None]
    centre = raw[:, :, :2].sigmoid() + torch.stack([column.expand(height, width), row.expand(height, width)])
    log_sides = raw[:, :, 2:4].clamp(-MAX_OFFSET, MAX_OFFSET) + log_wh[:, :, None, None]
    return torch.cat([centre * stride, log_sides.exp()], dim=2)
