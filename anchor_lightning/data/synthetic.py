"""The built-in data set: synthetic scenes with known modes of the box shapes, without files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anchor_lightning.data.annotated_set import AnnotatedSet
from anchor_lightning.data.dataset import DetectionDataset, ImageRecord
from anchor_lightning.data.scenes import CANVAS, CLASS_NAMES, MODES, SPLITS, draw_scene, paint
from anchor_lightning.errors import UserError


class SyntheticDataset(DetectionDataset):
    """The samples of one split of synthetic scenes; each record's path says which scene it is."""

    def load(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """(224, 224, 3) uint8 RGB, the painted scene; scenes have one size."""
        scene_seed, split, number = self.path(index).parts[-3:]
        return paint(draw_scene(int(scene_seed), split, int(number)))


class SyntheticSet(AnnotatedSet):
    """Scenes of textured objects with known modes of the box shapes; nothing is read or downloaded.

    Images are 224 x 224 pixels with two to five objects of four classes, with clutter and partial occlusion. The log
    shapes are normal (sigma 0.12) around the five `MODES`. Boxes hold the whole object, covered parts too.

    Args:
        num_train: Images of the training split, >= 1.
        num_val: Images of the validation split and of the test split each, >= 1.
        scene_seed: Of the scenes, >= 0; unlike `seed` it makes another data set.
        image_size: See `AnnotatedSet`; the scenes are stretched to it.
        kwargs: See `AnnotatedSet`; `root` has no meaning here.

    Raises:
        UserError: A number is out of range, a split is unknown, or `root` is given.
    """

    MODES: ClassVar[tuple[tuple[float, float], ...]] = MODES  # widths and heights in pixels of the canvas

    def __init__(
        self,
        num_train: int = 4000,
        num_val: int = 200,
        scene_seed: int = 0,
        image_size: int | list[int] = CANVAS,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        for name, value, least in (("num_train", num_train, 1), ("num_val", num_val, 1), ("scene_seed", scene_seed, 0)):
            if value < least:
                raise UserError(f"must be {least} or more, got {value}.", argument=name)
        if self.root is not None:
            raise UserError(f"{self.root}, but synthetic scenes are drawn, not read. Leave it out.", argument="root")
        self.scene_seed = scene_seed
        self._sizes = {"train": num_train, "val": num_val, "test": num_val}

    @property
    def class_names(self) -> list[str]:
        """The four kinds of objects."""
        return list(CLASS_NAMES)

    def mode_shapes(self) -> Tensor:
        """(5, 2) float32 width and height of the modes, in pixels of the network input at `image_size`."""
        height, width = self.image_size
        return torch.tensor(self.MODES) * torch.tensor([width / CANVAS, height / CANVAS])

    def _has_split(self, name: str) -> bool:
        return name in SPLITS

    def _read_split(self, name: str) -> list[ImageRecord]:
        if name not in self._sizes:
            raise UserError(f"synthetic scenes have no split {name!r}; there are {', '.join(SPLITS)}.")
        records = []
        for index in range(self._sizes[name]):
            path = Path("synthetic", str(self.scene_seed), name, str(index))
            ground_truth = draw_scene(self.scene_seed, name, index).ground_truth(image_id=index + 1)
            records.append(ImageRecord(path, f"{name}-{index:06d}", CANVAS, CANVAS, ground_truth))
        return records

    def _make_dataset(self, records: Sequence[ImageRecord], training: bool) -> DetectionDataset:
        return SyntheticDataset(records, seed=self.data_seed, augment=training and self.augment, training=training)
