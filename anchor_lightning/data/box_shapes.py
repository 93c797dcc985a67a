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


def annotated_box_shapes(
    records: Sequence[ImageRecord], image_size: tuple[int, int], *, native_crop: bool, keep_difficult: bool
) -> Tensor:
    """(N, 2) float32 shapes of the boxes as they are annotated.

    Args:
        records: The images.
        image_size: Height and width of the network input, to which images are stretched.
        native_crop: Training crops at native scale instead, so the shapes are the stored image's pixels.
        keep_difficult: Count the boxes that evaluation ignores, too.
    """
    shapes = [np.zeros((0, 2))]
    for record in records:
        boxes = _used_boxes(record, keep_difficult)
        wh = boxes[:, 2:] - boxes[:, :2]
        if not native_crop:
            wh = wh * (image_size[1] / record.width, image_size[0] / record.height)
        shapes.append(wh)
    return torch.from_numpy(np.concatenate(shapes)).float()


def augmented_box_shapes(
    records: Sequence[ImageRecord], image_size: tuple[int, int], *, native_crop: bool, keep_difficult: bool
) -> Tensor:
    """(N, 2) float32 shapes of the boxes as training shows them, in one draw an image that is always the same.

    Args:
        records: As for `annotated_box_shapes`, and so are the others.
        image_size: Height and width of the network input.
        native_crop: Crop at native scale; else crop and expand.
        keep_difficult: Count the boxes that evaluation ignores, too.
    """
    rng = np.random.default_rng(0)
    shapes = [np.zeros((0, 2), dtype=np.float32)]
    for record in records:
        size = (record.height, record.width)
        geometry = draw_native_crop(rng, size, image_size) if native_crop else draw_jitter(rng)
        boxes, _ = warp_boxes(_used_boxes(record, keep_difficult), size, geometry, image_size)
        shapes.append(boxes[:, 2:] - boxes[:, :2])
    return torch.from_numpy(np.concatenate(shapes))


def _used_boxes(record: ImageRecord, keep_difficult: bool) -> np.ndarray:
    return (
        record.ground_truth.boxes_xyxy
        if keep_difficult
        else record.ground_truth.boxes_xyxy[~record.ground_truth.ignore]
    )
