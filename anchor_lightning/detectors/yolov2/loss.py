"""YOLOv2's region loss (Eq. 2-5 with YOLOv2's weights), over padded targets, without loops or host synchronisation.

Shape letters: B images, M boxes an image (padded), A shapes, C classes, P = H x W cells, N = A x P anchors of an image.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from anchor_lightning.anchors.losses import wh_loss, xy_loss
from anchor_lightning.detectors.yolov2.head import MAX_OFFSET, NUM_BOX_CHANNELS, decode
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
    raw = predictions.raw.to(torch.promote_types(predictions.raw.dtype, torch.float32))
    stride, (grid_h, grid_w) = predictions.stride, predictions.raw.shape[-2:]
    num_images, num_anchors, num_channels = raw.shape[:3]
    boxes = batch.boxes_xyxy
    delta = assignment.delta  # (B, M, A)

    # What the anchors of each box's cell say: (B, M, A, 5 + C).
    index = assignment.cell[:, None, None, :].expand(-1, num_anchors, num_channels, -1)
    own = raw.flatten(3).gather(3, index).permute(0, 3, 1, 2)
    own_xy, own_wh = own[..., :2].sigmoid(), own[..., 2:4]
    own_objectness = own[..., 4].sigmoid()

    wh_boxes = boxes[..., 2:] - boxes[..., :2]
    image_area = float(grid_h * stride * grid_w * stride)
    coordinate_weight = delta * (2 - wh_boxes.prod(-1) / image_area)[..., None]  # (B, M, A)
    cell_xy = torch.stack([assignment.cell % grid_w, assignment.cell // grid_w], dim=-1)  # (B, M, 2)
    target_xy = (boxes[..., :2] + boxes[..., 2:]) / (2 * stride) - cell_xy
    loss_xy = xy_loss(own_xy, target_xy[:, :, None], coordinate_weight)
    loss_wh = wh_loss(own_wh, log_wh, assignment.log_wh, coordinate_weight)

    # No-object and prior terms: every anchor of the image, less its share in positives.
    box_channels = raw[:, :, :NUM_BOX_CHANNELS]  # (B, A, 5, H, W)
    with torch.no_grad():
        iou = own_iou(own_xy, own_wh, log_wh, target_xy, wh_boxes, stride)
        taken = torch.zeros(num_images, num_anchors, grid_h * grid_w, dtype=delta.dtype, device=delta.device)
        taken.scatter_add_(2, assignment.cell[:, None].expand(-1, num_anchors, -1), delta.transpose(1, 2))
        free = (1 - taken).clamp_min(0).unflatten(2, (grid_h, grid_w))  # (B, A, H, W)
        overlaps = overlaps_ground_truth(decode(box_channels, log_wh, stride), boxes, batch.mask)
        no_object = torch.where(overlaps, 0, free)
    objectness = box_channels[:, :, 4].sigmoid()
    loss_objectness = 0.5 * (
        OBJECT_SCALE * (delta * (iou - own_objectness).square()).sum() + (no_object * objectness.square()).sum()
    )
    pull = 0.5 * 0.01 * prior
    loss_xy = loss_xy + pull * (free[:, :, None] * (box_channels[:, :, :2].sigmoid() - 0.5).square()).sum()
    loss_wh = loss_wh + pull * (free[:, :, None] * box_channels[:, :, 2:4].square()).sum()

    # Softmax cross-entropy; with a single class it is 0, and so is its gradient.
    label = batch.labels.clamp_min(0)[:, :, None, None].expand(-1, -1, num_anchors, 1)
    log_probability = own[..., NUM_BOX_CHANNELS:].log_softmax(-1).gather(-1, label).squeeze(-1)  # (B, M, A)
    loss_class = -(delta * log_probability).sum()

    terms = {"loss_xy": loss_xy, "loss_wh": loss_wh, "loss_objectness": loss_objectness, "loss_class": loss_class}
    return {name: term / num_images for name, term in terms.items()}


def own_iou(own_xy: Tensor, own_wh: Tensor, log_wh: Tensor, target_xy: Tensor, wh_boxes: Tensor, stride: int) -> Tensor:
    """(B, M, A) IoU of each box with what its cell's anchors predict ("rescore"); centres in cells, sides in pixels."""
    wh = (own_wh.clamp(-MAX_OFFSET, MAX_OFFSET) + log_wh).exp()
    wh_boxes = wh_boxes[:, :, None]
    distance = (own_xy - target_xy[:, :, None]).abs() * stride
    # Two intervals of lengths a, b whose centres lie d apart share min(a, b, (a + b) / 2 - d).
    overlap = torch.minimum((wh + wh_boxes) / 2 - distance, wh.minimum(wh_boxes)).clamp_min(0)
    intersection = overlap.prod(-1)
    return intersection / (wh.prod(-1) + wh_boxes.prod(-1) - intersection)


def overlaps_ground_truth(boxes_cxcywh: Tensor, ground_truth_xyxy: Tensor, mask: Tensor) -> Tensor:
    """(B, A, H, W): which predicted boxes (B, A, 4, H, W) have an IoU above 0.6 with any true box (B, M, 4).

    IoU > t is intersection > t / (1 + t) (area + area of ground truth): the predicted area waits for the maximum.
    """
    shape = boxes_cxcywh[:, :, 0].shape
    centre_x, centre_y, width, height = (part.flatten(1)[:, None] for part in boxes_cxcywh.unbind(2))  # (B, 1, N)
    left, top, right, bottom = (side[..., None] for side in ground_truth_xyxy.unbind(-1))  # (B, M, 1)
    share = IGNORE_IOU / (1 + IGNORE_IOU)
    ground_truth_area = torch.where(mask[..., None], (right - left) * (bottom - top), torch.inf)
    overlap, start = torch.minimum(centre_x + width / 2, right), torch.maximum(centre_x - width / 2, left)
    overlap.sub_(start).clamp_min_(0)
    overlap_y = torch.minimum(centre_y + height / 2, bottom)
    overlap_y.sub_(torch.maximum(centre_y - height / 2, top, out=start))  # fresh memory costs more than the arithmetic
    # One clamp is enough: with overlap >= 0, a negative overlap_y makes a product that exceeds nothing.
    overlap.mul_(overlap_y).sub_(share * ground_truth_area)
    return (overlap.amax(1) > (share * width * height).squeeze(1)).reshape(shape)
