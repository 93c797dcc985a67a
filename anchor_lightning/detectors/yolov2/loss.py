"""YOLOv2's region loss (Eq. 2-5 with YOLOv2's weights), over padded targets, without loops or host synchronisation.

Shape letters: B images, M boxes an image (padded), A shapes, C classes, P = H x W cells, N = A x P anchors of an image.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

from anchor_lightning.detectors.yolo.head import NUM_BOX_CHANNELS
from anchor_lightning.detectors.yolo.loss import common_terms
from anchor_lightning.structures import Assignment, DetectionBatch, Predictions

OBJECT_SCALE: Final = 5.0
IGNORE_IOU: Final = 0.6  # an anchor whose box meets any ground truth this well does not count as no-object


def region_loss(
    predictions: Predictions, batch: DetectionBatch, assignment: Assignment, log_wh: Tensor, prior: Tensor | float = 0.0
) -> dict[str, Tensor]:
    """`loss_xy`, `loss_wh`, `loss_objectness` and `loss_class`, scalars summed over the batch and divided by its size.

    With hard assignment and no two boxes on one anchor this is the C region layer, term by term.

    Note:
        Colliding boxes all count, as in the paper's sums; the C code keeps the last. An anchor counts with its δ in
        every positive term, and as no-object with max(0, 1 - Σ δ).

    Args:
        predictions: Raw output of the network.
        batch: Boxes, labels and mask; the images are not read.
        assignment: δ, cells and log sides of the boxes.
        log_wh: (A, 2) log sides of the shapes in pixels; gets its gradient from the wh term alone.
        prior: 1 while anchors without a box are pulled to the cell centre and their own shape, else 0.
    """
    delta = assignment.delta  # (B, M, A)
    common = common_terms(predictions, batch, assignment, log_wh, IGNORE_IOU)
    own_objectness = common.own[..., 4].sigmoid()
    objectness = common.box_channels[:, :, 4].sigmoid()
    loss_objectness = 0.5 * (
        OBJECT_SCALE * (delta * (common.iou - own_objectness).square()).sum()
        + (common.no_object * objectness.square()).sum()
    )
    pull, free = 0.5 * 0.01 * prior, common.free[:, :, None]
    loss_xy = common.loss_xy + pull * (free * (common.box_channels[:, :, :2].sigmoid() - 0.5).square()).sum()
    loss_wh = common.loss_wh + pull * (free * common.box_channels[:, :, 2:4].square()).sum()

    # Softmax cross-entropy; with a single class it is 0, and so is its gradient.
    label = batch.labels.clamp_min(0)[:, :, None, None].expand(-1, -1, delta.shape[-1], 1)
    log_probability = common.own[..., NUM_BOX_CHANNELS:].log_softmax(-1).gather(-1, label).squeeze(-1)  # (B, M, A)
    loss_class = -(delta * log_probability).sum()

    terms = {"loss_xy": loss_xy, "loss_wh": loss_wh, "loss_objectness": loss_objectness, "loss_class": loss_class}
    return {name: term / len(predictions.raw) for name, term in terms.items()}
