"""Detectors of the evidence that the project does not ship."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anchor_lightning.anchors import assign
from anchor_lightning.detectors import FasterRCNN, YOLOv2
from anchor_lightning.detectors.yolo.head import BatchNormWithoutShift
from anchor_lightning.structures import DetectionBatch, StepOptions

MIN_WEIGHT = 2.0  # Sum of δ of an anchor in a batch below which its running statistics stand in for the batch's


class PositivesNorm(BatchNormWithoutShift):
    """Batch norm without shift whose mean and variance in training are those of the positives, weighted by δ.

    Another reading of §3.2.3.
    """

    delta: Tensor | None = None  # (B, A, H, W) of the batch

    def forward(self, offsets: Tensor) -> Tensor:
        """(B, 2 A, H, W) normalised offsets."""
        if not self.training or self.delta is None:
            return super().forward(offsets)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        weight = self.delta.repeat_interleave(2, dim=1)
        total = weight.sum((0, 2, 3))
        share = weight / total.clamp_min(1e-6)[None, :, None, None]
        mean = (share * offsets).sum((0, 2, 3))
        variance = (share * (offsets - mean[None, :, None, None]).square()).sum((0, 2, 3))
        enough = total >= MIN_WEIGHT
        with torch.no_grad():
            self.running_mean.lerp_(torch.where(enough, mean, self.running_mean), self.momentum)
            self.running_var.lerp_(torch.where(enough, variance, self.running_var), self.momentum)
        mean = torch.where(enough, mean, self.running_mean)[None, :, None, None]
        variance = torch.where(enough, variance, self.running_var)[None, :, None, None]
        return (offsets - mean) * (variance + self.eps).rsqrt() * self.weight[None, :, None, None]


class YOLOv2NormOverPositives(YOLOv2):
    """YOLOv2 with `PositivesNorm`; arguments as of `YOLOv2`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        norm = self.network.head.norm
        assert norm is not None
        self.network.head.norm = PositivesNorm(norm.num_features, float(norm.weight[0].detach()))

    def training_losses(self, batch: DetectionBatch, step: StepOptions) -> dict[str, Tensor]:
        """As of `YOLOv2`; the assignment, which does not depend on the predictions, is made before them, too."""
        log_wh, stride = self.shapes.log_wh, self.network.stride
        rows, columns = (side // stride for side in batch.images.shape[-2:])
        found = assign(
            log_wh, batch.boxes_xyxy, batch.mask, (rows, columns), stride, step.temperature, distance=step.distance
        )
        delta = log_wh.new_zeros(len(batch.mask), rows * columns, len(log_wh))
        delta.scatter_add_(1, found.cell[..., None].expand_as(found.delta), found.delta)
        norm = self.network.head.norm
        assert isinstance(norm, PositivesNorm)
        norm.delta = delta.transpose(1, 2).unflatten(2, (rows, columns))
        return super().training_losses(batch, step)


class FasterRCNNFromStride8(FasterRCNN):
    """Faster R-CNN on a pyramid whose first level has stride 8, with a smaller second stage; arguments as of its base.

    The level at stride 4 would take three quarters of the pyramid's operations. The stock shapes are torchvision's four
    smallest, 32 to 256 pixels, one size a level; the second stage trains on 64 boxes of an image, from 250 proposals.
    """

    pyramid_levels = (2, 3, 4)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rpn, second = self.model.rpn, self.model.roi_heads
        rpn._pre_nms_top_n["training"], rpn._post_nms_top_n["training"] = 500, 250
        second.fg_bg_sampler.batch_size_per_image = 64
