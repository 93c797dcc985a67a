"""OpenCV's importer of darknet files as a witness: what it decodes must be what we decode."""

from __future__ import annotations

from typing import Any

import cv2
import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from anchor_lightning.detectors.yolo.head import decode
from anchor_lightning.detectors.yolov2.network import YOLOv2Network

SCORE_THRESHOLD = 0.005
OPENCV_NMS_IOU = 0.4

needs_importer = pytest.mark.skipif(
    not hasattr(cv2.dnn, "readNetFromDarknet"), reason="OpenCV 5 has no importer for darknet files"
)


def same_boxes_in_opencv(net: Any, model: YOLOv2Network, images: Tensor, wh: Tensor) -> int:
    """Asserts that OpenCV finds the same boxes in every image, and returns how many.

    Its region layer drops scores up to `thresh`, then suppresses per class at an IoU of 0.4, which no entry of the
    configuration changes; ours are therefore taken from before our own suppression.

    Args:
        net: What `readNetFromDarknet` gave.
        model: In evaluation mode.
        images: (B, 3, H, W) in [0, 1].
        wh: (A, 2) pixels.
    """
    side = torch.tensor([images.shape[-1], images.shape[-2]])
    total = 0
    for image in images.split(1):
        with torch.no_grad():
            raw = model(image).raw
        # In the order of OpenCV's rows: cells, then anchors.
        corners = box_convert(decode(raw, wh.log(), 32)[0].permute(2, 3, 0, 1).flatten(0, 2), "cxcywh", "xyxy")
        scores = (raw[:, :, 4:5].sigmoid() * raw[:, :, 5:].softmax(2))[0].permute(2, 3, 0, 1).flatten(0, 2)
        cell, label = (scores > SCORE_THRESHOLD).nonzero(as_tuple=True)
        kept = batched_nms(corners[cell], scores[cell, label], label, OPENCV_NMS_IOU)
        net.setInput(image.numpy())
        rows = torch.from_numpy(net.forward().copy())  # centre, sides (fractions of the image), objectness, C scores
        assert len(rows) == len(corners)
        theirs, ours = rows[:, 5:] > 0, torch.zeros_like(scores, dtype=torch.bool)
        ours[cell[kept], label[kept]] = True
        # A score or an overlap may lie on its threshold to the last bit.
        assert (theirs ^ ours).sum() <= ours.sum() // 100
        both = theirs & ours
        torch.testing.assert_close(rows[:, 5:][both], scores[both], atol=1e-5, rtol=1e-4)
        boxes = box_convert(rows[:, :4] * side.repeat(2), "cxcywh", "xyxy")
        torch.testing.assert_close(boxes, corners, atol=1e-2, rtol=1e-4)
        total += int(ours.sum())
    return total
