"""The typed records that travel between data, detectors, anchors and metrics.

Shape letters, here and in the whole package: B images of a batch, M boxes an image (padded), A anchor shapes,
C classes, H x W cells of the feature map, N a plain count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class GroundTruth:
    """The annotated boxes of one image, in pixels of the image (continuous, 0-based).

    Args:
        image_id: Integer from 0 on, unique within a data set.
        boxes_xyxy: (N, 4) float64, left, top, right, bottom.
        labels: (N,) int64 in [0, C).
        ignore: (N,) bool; True for `difficult` (VOC) and `iscrowd` (COCO) boxes, neither missed nor false positives.
        area: (N,) float64, by which a box is small, medium or large: COCO's segment area if given, else width x height.
    """

    image_id: int
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    area: np.ndarray


class DetectionBatch:
    """A batch of images with their boxes padded to a common count; no dataclass, as `bf16-true` would round its boxes.

    Args:
        images: (B, 3, H, W) RGB; uint8 in [0, 255] from the loader, floating point in [0, 1] on the device.
        boxes_xyxy: (B, M, 4) float32 in pixels of the network input; zeros where padded.
        labels: (B, M) int64 in [0, C); -1 where padded.
        mask: (B, M) bool; True where a box is real.
        image_ids: (B,) int64, the `GroundTruth.image_id` of each image.
        original_sizes: (B, 2) float32, height and width of the stored images in pixels.
        colour: (B, 3) float32, hue shift in [-0.5, 0.5], saturation and exposure factors; (0, 1, 1) changes nothing.
    """

    def __init__(
        self,
        images: Tensor,
        boxes_xyxy: Tensor,
        labels: Tensor,
        mask: Tensor,
        image_ids: Tensor,
        original_sizes: Tensor,
        colour: Tensor,
    ) -> None:
        self.images = images
        self.boxes_xyxy = boxes_xyxy
        self.labels = labels
        self.mask = mask
        self.image_ids = image_ids
        self.original_sizes = original_sizes
        self.colour = colour

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str) -> Self:
        """The batch with every tensor on `device` (what Lightning calls to move a batch)."""
        # Copies to the device may overlap with the work there; copies back must be done before the host reads them.
        non_blocking = torch.device(device).type != "cpu"
        return type(self)(**{name: t.to(device, non_blocking=non_blocking) for name, t in vars(self).items()})

    def pin_memory(self) -> Self:
        """The batch in page-locked memory (what `DataLoader(pin_memory=True)` calls)."""
        return type(self)(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class StepOptions:
    """What a detector's training loss must know of the optimizer step.

    Args:
        temperature: T of Eq. 10, a scalar tensor; 0 is the hard assignment.
        distance: Distance of the assignment, `iou` or `l2`.
        clustering_weight: λ of Eq. 11.
        num_boxes: N of Eq. 11, the boxes of the global batch, at least 1; a scalar tensor.
        world_size: Ranks that gradients are averaged over.
        images_seen: Training images of the run before this step, over all ranks.
    """

    temperature: Tensor
    distance: Literal["iou", "l2"]
    clustering_weight: float
    num_boxes: Tensor
    world_size: int
    images_seen: int


@dataclass(frozen=True)
class Predictions:
    """What a one-stage detector says of every anchor, before any activation.

    Args:
        raw: (B, A, 5 + C, H, W): Δx, Δy (logits of the place in the cell), Δw, Δh, objectness logit, class logits.
        stride: Pixels of the network input per cell.
    """

    raw: Tensor
    stride: int


@dataclass(frozen=True)
class Assignment:
    """How much each anchor of a box's cell answers for the box (δ of Eq. 1); constant for the backward pass.

    Args:
        delta: (B, M, A) float32 >= 0; each row of a real box sums to 1 (over the levels of the head together), rows of
            padding are 0.
        cell: (B, M) int64, row-major index of the cell that holds the box centre; 0 where padded.
        log_wh: (B, M, 2) float32, log width and height of the boxes in pixels; 0 where padded.
    """

    delta: Tensor
    cell: Tensor
    log_wh: Tensor


@dataclass  # not frozen: Lightning moves what `predict_step` returns field by field
class Detections:
    """The final boxes of one image, highest score first.

    Args:
        boxes_xyxy: (N, 4) float32, in pixels of whatever image the maker states.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64 in [0, C).
        anchors: (N,) int64, the anchor shape that each box came from; -1 where the detector does not say.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    anchors: Tensor


class DetectorOutput(NamedTuple):
    """What a detector finds in the B images of a batch.

    Args:
        detections: B records, boxes in pixels of the network input.
        proposals: B tensors (P, 4), a first stage's boxes `xyxy` in the same pixels, best first; None without one.
    """

    detections: list[Detections]
    proposals: list[Tensor] | None = None
