"""What the losses of YOLOv2 and YOLOv3 share, over padded targets, without loops or host synchronisation.

Shape letters: B images, M boxes an image (padded), A shapes of a level, C classes, P = H x W cells, N = A x P anchors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anchor_lightning.anchors.losses import wh_loss, xy_loss
from anchor_lightning.detectors.yolo.head import MAX_OFFSET, NUM_BOX_CHANNELS, decode
from anchor_lightning.structures import Assignment, DetectionBatch, Predictions


class CommonTerms(NamedTuple):
    """What the losses of YOLOv2 and of a level of YOLOv3 share.

    Args:
        loss_xy: Scalar sum over the batch: half the squared error of the centres through the sigmoid, times 2 - w h.
        loss_wh: Scalar sum over the batch: that of Δ + ŝ, through which alone the shapes get a gradient (Eq. 9).
        own: (B, M, A, 5 + C) what the anchors of each box's cell say.
        iou: (B, M, A) IoU of each box with what they predict, without gradient.
        box_channels: (B, A, 5, H, W) what every anchor says.
        free: (B, A, H, W) share of each anchor in no box, without gradient.
        no_object: The same, 0 where the anchor predicts some box well, without gradient.
    """

    loss_xy: Tensor
    loss_wh: Tensor
    own: Tensor
    iou: Tensor
    box_channels: Tensor
    free: Tensor
    no_object: Tensor


def common_terms(
    predictions: Predictions, batch: DetectionBatch, assignment: Assignment, log_wh: Tensor, ignore_iou: float
) -> CommonTerms:
    """Localisation of one level, and which of its anchors are background.

    Args:
        predictions: Raw output of the level.
        batch: As of `region_loss`.
        assignment: Of the level.
        log_wh: (A, 2) of the level.
        ignore_iou: An anchor whose box meets any ground truth better does not count as no-object.
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
        overlaps = overlaps_ground_truth(decode(box_channels, log_wh, stride), boxes, batch.mask, ignore_iou)
        no_object = torch.where(overlaps, 0, free)
    return CommonTerms(loss_xy, loss_wh, own, iou, box_channels, free, no_object)


def own_iou(own_xy: Tensor, own_wh: Tensor, log_wh: Tensor, target_xy: Tensor, wh_boxes: Tensor, stride: int) -> Tensor:
    """(B, M, A) IoU of each box with what its cell's anchors predict ("rescore"); centres in cells, sides in pixels."""
    wh = (own_wh.clamp(-MAX_OFFSET, MAX_OFFSET) + log_wh).exp()
    wh_boxes = wh_boxes[:, :, None]
    distance = (own_xy - target_xy[:, :, None]).abs() * stride
    # Two intervals of lengths a, b whose centres lie d apart share min(a, b, (a + b) / 2 - d).
    overlap = torch.minimum((wh + wh_boxes) / 2 - distance, wh.minimum(wh_boxes)).clamp_min(0)
    intersection = overlap.prod(-1)
    return intersection / (wh.prod(-1) + wh_boxes.prod(-1) - intersection)


def overlaps_ground_truth(boxes_cxcywh: Tensor, ground_truth_xyxy: Tensor, mask: Tensor, least_iou: float) -> Tensor:
    """(B, A, H, W): which predicted boxes (B, A, 4, H, W) have an IoU above `least_iou` with any true box (B, M, 4).

    IoU > t is intersection > t / (1 + t) (area + area of ground truth): the predicted area waits for the maximum.
    """
    shape = boxes_cxcywh[:, :, 0].shape
    centre_x, centre_y, width, height = (part.flatten(1)[:, None] for part in boxes_cxcywh.unbind(2))  # (B, 1, N)
    left, top, right, bottom = (side[..., None] for side in ground_truth_xyxy.unbind(-1))  # (B, M, 1)
    share = least_iou / (1 + least_iou)
    ground_truth_area = torch.where(mask[..., None], (right - left) * (bottom - top), torch.inf)
    overlap, start = torch.minimum(centre_x + width / 2, right), torch.maximum(centre_x - width / 2, left)
    overlap.sub_(start).clamp_min_(0)
    overlap_y = torch.minimum(centre_y + height / 2, bottom)
    overlap_y.sub_(torch.maximum(centre_y - height / 2, top, out=start))  # fresh memory costs more than the arithmetic
    # One clamp is enough: with overlap >= 0, a negative overlap_y makes a product that exceeds nothing.
    overlap.mul_(overlap_y).sub_(share * ground_truth_area)
    return (overlap.amax(1) > (share * width * height).squeeze(1)).reshape(shape)
