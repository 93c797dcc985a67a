"""A YOLOv3 that learns a few images by heart finds every box once, on the level of its best shape."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.detectors import YOLOv3
from anchor_lightning.structures import DetectionBatch, StepOptions

SIDE = 64
LEVELS = [[[5, 6], [7, 9], [10, 8]], [[14, 13], [20, 17], [16, 24]], [[30, 40], [42, 38], [50, 56]]]
BOXES = [  # of each image one for every level, which is its class
    [(3, 50, 10, 59), (40, 5, 60, 21), (2, 2, 43, 39)],
    [(50, 30, 57, 39), (5, 44, 25, 61), (20, 3, 61, 41)],
    [(30, 5, 37, 14), (2, 2, 22, 18), (15, 22, 57, 60)],
]


def make_batch() -> DetectionBatch:
    """Boxes of pure red, green and blue on dark noise."""
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    images = 0.2 * torch.rand(len(BOXES), 3, SIDE, SIDE)
    for image, of_image in zip(images, BOXES, strict=True):
        for label in (2, 1, 0):  # the small ones lie above the large
            left, top, right, bottom = of_image[label]
            image[:, top:bottom, left:right] = torch.eye(3)[label][:, None, None]
    labels, num = torch.arange(3).expand(len(BOXES), 3), len(BOXES)
    colour, sizes = torch.tensor([[0.0, 1, 1]] * num), torch.full((num, 2), float(SIDE))
    return DetectionBatch(images, boxes, labels, torch.ones_like(labels) > 0, torch.arange(num), sizes, colour)


def options(step: int) -> StepOptions:
    """Soft for fifteen steps, then hard."""
    left = max(0.0, 1 - step / 15)
    distance = "l2" if left else "iou"
    return StepOptions(torch.tensor(0.5 * left), distance, left, torch.tensor(9.0), 1, 0)  # type: ignore[arg-type]


def test_every_box_is_found_once_on_its_level() -> None:
    torch.manual_seed(0)
    batch, detector = make_batch(), YOLOv3(3, AnchorOptions(LEVELS), width=0.25, objectness_init=0.01)
    optimizer = torch.optim.Adam(detector.parameters(), 1e-3)
    losses: list[Tensor] = []
    for step in range(80):
        losses.append(torch.stack(list(detector.training_losses(batch, options(step)).values())).sum())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    # In the mode of training: eighty steps are few for the norms' running statistics.
    for found, boxes in zip(detector.detect(batch.images, 0.4).detections, batch.boxes_xyxy, strict=True):
        assert sorted(found.labels.tolist()) == [0, 1, 2]
        assert (found.anchors // 3 == found.labels).all()
        assert (box_iou(found.boxes_xyxy, boxes)[torch.arange(3), found.labels] > 0.8).all()
