"""Records, images and a data module of a few textured images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from anchor_lightning.data import DetectionDataModule
from anchor_lightning.data.dataset import DetectionDataset, ImageRecord
from anchor_lightning.structures import GroundTruth


def ground_truth(image_id: int, boxes: Sequence[Sequence[float]], ignore: Sequence[bool] | None = None) -> GroundTruth:
    """Boxes of class 0."""
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    ignored = np.zeros(len(array), dtype=bool) if ignore is None else np.array(ignore)
    area = (array[:, 2:] - array[:, :2]).prod(1)
    return GroundTruth(image_id, array, np.zeros(len(array), dtype=np.int64), ignored, area)


def record(image_id: int, boxes: Sequence[Sequence[float]], size: tuple[int, int], name: str = "") -> ImageRecord:
    """A record whose file does not exist."""
    path = Path(name or f"/nowhere/{image_id}.jpg")
    return ImageRecord(path, path.stem, *size, ground_truth(image_id, boxes))


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth colourful image, (height, width, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


class MemoryDataset(DetectionDataset):
    """Images that come from a seed."""

    def load(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        return texture(*self._sizes[index].tolist(), seed=index)


class MemoryModule(DetectionDataModule):
    """A data module without files."""

    counts: ClassVar[dict[str, int]] = {"train": 20, "val": 7, "test": 3}

    @property
    def class_names(self) -> list[str]:
        return ["thing"]

    def _read_split(self, name: str) -> list[ImageRecord]:
        return [
            record(i + 1, [[5, 5, 20 + i, 30], [1, 2, 30, 20]][: i % 3], (40, 60), f"/nowhere/{name}/{i}.png")
            for i in range(self.counts[name])
        ]

    def _make_dataset(self, records: Sequence[ImageRecord], training: bool) -> DetectionDataset:
        return MemoryDataset(records, seed=self.data_seed, augment=training and self.augment, training=training)


def attach(module: MemoryModule, **attributes: Any) -> MemoryModule:
    """Pretend that a trainer runs the module."""
    defaults = {"global_rank": 0, "world_size": 1, "accumulate_grad_batches": 1, "global_step": 0, "training": True}
    defaults |= {f"limit_{loader}_batches": 1.0 for loader in ("train", "val", "test", "predict")}
    defaults |= {"overfit_batches": 0.0, "check_val_every_n_epoch": 1, "callbacks": []}
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(**(defaults | attributes), strategy=strategy)  # type: ignore[assignment]
    return module


def write_text(path: Path, text: str) -> Path:
    """A file, and its folder where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_image(path: Path, height: int = 40, width: int = 60, seed: int = 0) -> Path:
    """A textured image file of any format that PIL knows by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(texture(height, width, seed)).save(path)
    return path
