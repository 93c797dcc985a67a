"""Sizes of the training boxes as the network sees them, which anchor shapes are fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.transforms import boxes_in_window, draw_jitter, draw_native_crop


def training_box_shapes(
    records: Sequence[ImageRecord],
    image_size: tuple[int, int],
    keep_difficult: bool,
    native_crop: bool,
    augmented: bool = False,
) -> Tensor:
    """(N, 2) float32 widths and heights of the boxes that training uses, in pixels of the network input.

    Args:
        records: The training images.
        image_size: Height and width of the network input in pixels.
        keep_difficult: Whether ignorable boxes count.
        native_crop: Whether training crops at native scale instead of stretching.
        augmented: Draw each image's geometry once, with a fixed seed, instead of taking whole images.
    """
    rng = np.random.default_rng(0)
    shapes = [np.zeros((0, 2))]
    for record in records:
        size = (record.height, record.width)
        boxes = record.ground_truth.boxes_xyxy[record.is_target(keep_difficult)]
        if augmented:
            geometry = draw_native_crop(rng, size, image_size) if native_crop else draw_jitter(rng)
            boxes, _ = boxes_in_window(boxes, size, geometry, image_size)
        elif not native_crop:
            boxes = boxes * np.tile((image_size[1] / record.width, image_size[0] / record.height), 2)
        shapes.append(boxes[:, 2:] - boxes[:, :2])
    return torch.from_numpy(np.concatenate(shapes)).float()
