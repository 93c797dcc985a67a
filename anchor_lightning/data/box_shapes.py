"""Width and height of the boxes that training uses, in pixels of the network input: what anchor shapes are fitted to.

Shape letters: N boxes of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.transforms import draw_jitter, draw_native_crop, warp_boxes


def box_shapes(
    records: Sequence[ImageRecord],
    image_size: tuple[int, int],
    native_crop: bool,
    keep_difficult: bool,
    *,
    augmented: bool = False,
) -> Tensor:
    """Widths and heights of the ground truth in training.

    Args:
        records: The images.
        image_size: Height and width of the network input, to which images are stretched.
        native_crop: Training crops at native scale instead, so that the shapes are the stored image's pixels.
        keep_difficult: Count the boxes that evaluation ignores, too.
        augmented: As training shows them, in one draw an image that is always the same.

    Returns:
        (N, 2) float32.
    """
    rng = np.random.default_rng(0)
    shapes = [np.zeros((0, 2))]
    for record in records:
        size = (record.height, record.width)
        boxes = record.ground_truth.boxes_xyxy[record.is_target(keep_difficult)]
        if augmented:
            geometry = draw_native_crop(rng, size, image_size) if native_crop else draw_jitter(rng)
            boxes, _ = warp_boxes(boxes, size, geometry, image_size)
        elif not native_crop:
            boxes = boxes * np.tile((image_size[1] / record.width, image_size[0] / record.height), 2)
        shapes.append(boxes[:, 2:] - boxes[:, :2])
    return torch.from_numpy(np.concatenate(shapes)).float()
