"""The same work in other libraries, as far as they are installed: files and boxes to a batch of floats and its boxes.

Each crops or expands an image at random (torchvision crops only), mirrors half of them, and shifts hue, saturation and
brightness, with what the library's users would write, as fast as it was found to go.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

Load = Callable[[], torch.Tensor]
STRONGEST = 1.5  # factor of saturation and brightness, either way


def torchvision_v2(files: Sequence[Path], boxes: Sequence[np.ndarray], side: int) -> Load:
    """`transforms.v2` on tensors of `torchvision.io`."""
    io, tv_tensors = importlib.import_module("torchvision.io"), importlib.import_module("torchvision.tv_tensors")
    v2 = importlib.import_module("torchvision.transforms.v2")
    factors = 1 / STRONGEST, STRONGEST
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(0.16, 1), ratio=(0.5, 2), antialias=False),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=factors, saturation=factors, hue=0.1),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(labels_getter=None),
        ]
    )

    def one(file: Path, corners: np.ndarray) -> torch.Tensor:
        image = io.decode_image(io.read_file(str(file)))
        truth = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=image.shape[-2:])
        return transform(tv_tensors.Image(image), truth)[0]

    return lambda: torch.stack(list(map(one, files, boxes)))


def albumentations(files: Sequence[Path], boxes: Sequence[np.ndarray], side: int) -> Load:
    """On arrays of OpenCV."""
    lib: Any = importlib.import_module("albumentations")
    transform = lib.Compose(
        [
            lib.CropAndPad(percent=(-0.3, 0.3), keep_size=False, border_mode=cv2.BORDER_REPLICATE),
            lib.Resize(side, side),
            lib.HorizontalFlip(),
            lib.HueSaturationValue(18, 50, 50, p=1),  # of 180, 255 and 255
        ],
        bbox_params=lib.BboxParams("pascal_voc", label_fields=["labels"], clip=True),
    )

    def one(file: Path, corners: np.ndarray) -> np.ndarray:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        pixels: np.ndarray = transform(image=image, bboxes=corners, labels=np.zeros(len(corners)))["image"]
        return pixels

    def load() -> torch.Tensor:
        return torch.from_numpy(np.stack(list(map(one, files, boxes)))).permute(0, 3, 1, 2).float().div_(255)

    return load


def lightnet(files: Sequence[Path], boxes: Sequence[np.ndarray], side: int) -> Load:
    """On arrays of OpenCV, annotations in pandas' tables."""
    pandas, transform = importlib.import_module("pandas"), importlib.import_module("lightnet").data.transform
    transforms = transform.Compose(
        transform.RandomHSV(0.1, STRONGEST, STRONGEST),
        transform.RandomJitter(0.3),
        transform.RandomFlip(0.5),
        transform.Rescale((side, side)),
        transform.FitAnno(),
    )
    tables = []
    for corners in boxes:
        table = pandas.DataFrame(corners, columns=["x_top_left", "y_top_left", "width", "height"])
        table[["width", "height"]] -= table[["x_top_left", "y_top_left"]].to_numpy()
        tables.append(table.assign(truncated=0.0, ignore=False))

    def one(file: Path, table: Any) -> np.ndarray:
        pixels: np.ndarray = transforms(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB), table.copy())[0]
        return pixels

    def load() -> torch.Tensor:
        return torch.from_numpy(np.stack(list(map(one, files, tables)))).permute(0, 3, 1, 2).float().div_(255)

    return load


def installed(files: Sequence[Path], boxes: Sequence[np.ndarray], side: int) -> dict[str, Load]:
    """What loads the images as one batch of `side` x `side` pixels, by the name of each library that is there."""
    found: dict[str, Load] = {}
    for make in (torchvision_v2, albumentations, lightnet):
        with suppress(ModuleNotFoundError):
            found[make.__name__.replace("_", " ")] = make(files, boxes, side)
    return found
