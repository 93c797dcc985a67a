"""From raw predictions to final boxes (§4.1): scores, threshold, per-class NMS, top k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from anchor_lightning.detectors.yolo.head import NUM_BOX_CHANNELS, decode
from anchor_lightning.structures import Detections, Predictions

NMS_IOU: Final = 0.45
MAX_DETECTIONS: Final = 300


@torch.no_grad()
def postprocess(
    levels: Sequence[Predictions], log_wh: Tensor, score_threshold: float, multi_label: bool = False
) -> list[Detections]:
    """The boxes of each image in pixels of the network input, clipped to it, at most 300 after NMS per class (§4.1).

    Args:
        levels: Raw output for B images of each level of the head.
        log_wh: (A, 2) log sides of the shapes in pixels, level after level.
        score_threshold: Scores up to this are dropped.
        multi_label: As of `boxes_and_scores`.
    """
    boxes, scores = all_boxes_and_scores(levels, log_wh, multi_label)
    limit = _limit(levels[0].raw, levels[0].stride)
    cells = torch.tensor([level.raw[0, 0, 0].numel() for level in levels for _ in range(level.raw.shape[1])])
    shape_of_box = torch.arange(len(log_wh)).repeat_interleave(cells).to(boxes.device)
    return [_of_one_image(b, s, score_threshold, shape_of_box, limit) for b, s in zip(boxes, scores, strict=True)]


def all_boxes_and_scores(
    levels: Sequence[Predictions], log_wh: Tensor, multi_label: bool = False
) -> tuple[Tensor, Tensor]:
    """Those of `boxes_and_scores` for all levels, one behind the other; arguments as of `postprocess`."""
    of_level = log_wh.split([level.raw.shape[1] for level in levels])
    found = [
        boxes_and_scores(level.raw.float(), part, level.stride, multi_label)
        for level, part in zip(levels, of_level, strict=True)
    ]
    boxes, scores = zip(*found, strict=True)
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)


def boxes_and_scores(raw: Tensor, log_wh: Tensor, stride: int, multi_label: bool = False) -> tuple[Tensor, Tensor]:
    """The boxes of one level `xyxy` in pixels (B, A*H*W, 4), and their scores before NMS (B, A*H*W, C).

    Args:
        raw: (B, A, 5 + C, H, W) float32.
        log_wh: (A, 2) log sides of the level's shapes in pixels.
        stride: Pixels per cell.
        multi_label: Whether the classes are independent, by a sigmoid each (YOLOv3), or one by a softmax (YOLOv2).
    """
    boxes = decode(raw, log_wh, stride).permute(0, 1, 3, 4, 2).flatten(1, 3)
    limit = _limit(raw, stride)
    # NMS sees unclipped boxes, as in the C code, but coordinates that batched_nms can shift apart in float32.
    boxes = box_convert(boxes, "cxcywh", "xyxy").maximum(-limit).minimum(2 * limit)
    logits = raw[:, :, NUM_BOX_CHANNELS:]
    probability = (logits.sigmoid() if multi_label else logits.softmax(2)) * raw[:, :, 4:NUM_BOX_CHANNELS].sigmoid()
    return boxes, probability.permute(0, 1, 3, 4, 2).flatten(1, 3)


def _limit(raw: Tensor, stride: int) -> Tensor:
    """(4,) the right and lower edge of the network input, twice."""
    height, width = raw.shape[-2:]
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=raw.device) * stride


def _of_one_image(
    boxes: Tensor, scores: Tensor, score_threshold: float, shape_of_box: Tensor, limit: Tensor
) -> Detections:
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
    return Detections(clipped, flat[chosen[keep]], label[keep], shape_of_box[box[keep]])
