"""From a folder or file to the shapes of the boxes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anchor_lightning.data import SETS
from anchor_lightning.data.annotated_set import AnnotatedSet
from anchor_lightning.data.formats.detect import detect_data


def read_data(path: str | Path, **options: Any) -> AnnotatedSet:
    """The data set in a folder or file, its kind found out as by `--data PATH`.

    Args:
        path: A folder in the style of VOC, COCO, YOLO or Brainwash, a COCO `.json`, a YOLO `data.yaml` or `.data`.
        options: See `AnnotatedSet`: `image_size`, `train_split`, and those of the kind that is found.

    Raises:
        UserError: It is none of these, or an option is out of range.
    """
    name, arguments = detect_data(path)
    return SETS[name](**(arguments | options))


def box_shapes(data: AnnotatedSet, letterbox: bool = False) -> tuple[Tensor, Tensor]:
    """Shapes and classes of the boxes that training uses; no image is decoded.

    Args:
        data: The data set. Nothing is held out of it for validation from now on, and images that cannot be read are
            no hindrance.
        letterbox: Scale images to fit into `image_size` with their aspect kept, as YOLOv5 and mmdet do; else stretch
            them to it, as this project and darknet do.

    Returns:
        (N, 2) float32 widths and heights in pixels of the network input, and (N,) int64 class indices.

    Raises:
        UserError: The annotations are missing or malformed, or the training split has no image.
    """
    data.skip_bad_images = True  # no pixel is read, so an image that cannot be is no hindrance
    data.hold_out_nothing()  # nothing is validated: all images of a set without a validation split count
    wh, records = data.train_box_shapes(), data.records("train")
    labels = [record.ground_truth.labels[record.is_target(data.keep_difficult)] for record in records]
    if letterbox and not data.native_crop:
        stored = np.array([(record.width, record.height) for record in records])
        scale = data.image_size[::-1] / stored  # stretched by these, but meant to be by the smaller one in both
        wh = wh * torch.from_numpy((scale.min(1, keepdims=True) / scale).repeat([*map(len, labels)], axis=0)).float()
    return wh, torch.from_numpy(np.concatenate(labels))
