"""From raw predictions to final boxes (§4.1): scores, threshold, per-class NMS, top k."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from anchor_lightning.detectors.yolov2.head import NUM_BOX_CHANNELS, decode
from anchor_lightning.structures import Detections, Predictions

NMS_IOU: Final = 0.45
MAX_DETECTIONS: Final = 300


@torch.no_grad()
def postprocess(predictions: Predictions, log_wh: Tensor, score_threshold: float) -> list[Detections]:
    """The boxes of each image in pixels of the network input, clipped to it, at most 300 after NMS per class (§4.1).

    Args:
        predictions: Raw output for B images.
        log_wh: (A, 2) log sides of the shapes in pixels.
        score_threshold: Scores up to this are dropped.
    """
    boxes, scores = boxes_and_scores(predictions.raw.float(), log_wh, predictions.stride)
    limit = _limit(predictions.raw, predictions.stride)
    cells = predictions.raw[0, 0, 0].numel()
    return [_of_one_image(b, s, score_threshold, cells, limit) for b, s in zip(boxes, scores, strict=True)]


def boxes_and_scores(raw: Tensor, log_wh: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """(B, A*H*W, 4) boxes `xyxy` in pixels, (B, A*H*W, C) scores before NMS, of float32 `raw` (B, A, 5 + C, H, W)."""
    boxes = decode(raw, log_wh, stride).permute(0, 1, 3, 4, 2).flatten(1, 3)
    limit = _limit(raw, stride)
    # NMS sees unclipped boxes, as in the C code, but coordinates that batched_nms can shift apart in float32.
    boxes = box_convert(boxes, "cxcywh", "xyxy").maximum(-limit).minimum(2 * limit)
    probability = raw[:, :, NUM_BOX_CHANNELS:].softmax(2) * raw[:, :, 4:NUM_BOX_CHANNELS].sigmoid()
    return boxes, probability.permute(0, 1, 3, 4, 2).flatten(1, 3)


def _limit(raw: Tensor, stride: int) -> Tensor:
    """(4,) the right and lower edge of the network input, twice."""
    height, width = raw.shape[-2:]
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=raw.device) * stride


def _of_one_image(boxes: Tensor, scores: Tensor, score_threshold: float, cells: int, limit: Tensor) -> Detections:
    num_classes = scores.shape[1]
    flat = scores.flatten()
    candidates = (flat > score_threshold).nonzero().squeeze(1)
    candidates = candidates[flat[candidates].argsort(descending=True, stable=True)]
    # In order of score: 300 that survive of the first are the best of all 100,000 of an untrained network.
    num = min(4096, len(candidates))
    while True:
        chosen = candidates[:num]
        box, label = chosen // num_classes, chosen % num_classes
        keep = batched_nms(boxes[box], flat[chosen], label, NMS_IOU)[:MAX_DETECTIONS]
        if len(keep) == MAX_DETECTIONS or num == len(candidates):
            break
        num = min(4 * num, len(candidates))
    clipped = boxes[box[keep]].clamp_min(0).minimum(limit)
    return Detections(clipped, flat[chosen[keep]], label[keep], box[keep] // cells)
