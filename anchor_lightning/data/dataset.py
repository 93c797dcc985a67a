"""From one image record to one sample, and from samples to a batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from anchor_lightning.data.images import UPRIGHT, read_image
from anchor_lightning.data.sampler import NO_IMAGE, SampleKey
from anchor_lightning.data.transforms import (
    NEUTRAL_COLOUR,
    WHOLE_IMAGE,
    boxes_in_window,
    draw_colour,
    draw_jitter,
    draw_native_crop,
    resize_window,
)
from anchor_lightning.errors import UserError
from anchor_lightning.structures import DetectionBatch, GroundTruth

MAX_BAD_IN_A_ROW = 100


@dataclass(frozen=True)
class ImageRecord:
    """One image of a split and its ground truth.

    Args:
        path: The image file; also what tells two images apart when splits are checked for overlap.
        name: The file's stem (VOC style) or file name (COCO), as result files name the image.
        height, width: Size of the image in pixels, turned by its orientation.
        ground_truth: All its boxes, the ignorable ones included.
        orientation: EXIF orientation (1 to 8) by which the stored image is turned to be what the boxes were drawn on,
            or `AS_STATED`.
    """

    path: Path
    name: str
    height: int
    width: int
    ground_truth: GroundTruth
    orientation: int = UPRIGHT

    def is_target(self, keep_difficult: bool) -> np.ndarray:
        """(N,) bool, the boxes that training uses: those that are not ignorable, or all with `keep_difficult`."""
        return ~self.ground_truth.ignore | keep_difficult


class Sample(NamedTuple):
    """One image as the network sees it, before batching.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes_xyxy: (N, 4) float32 in pixels of `image`.
        labels: (N,) int64.
        image_id: The record's id; `NO_IMAGE` where there is no image (an unreadable one, or the empty share of a rank).
        original_size: Height and width of the stored image in pixels.
        colour: (3,) float32, see `DetectionBatch.colour`.
    """

    image: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    image_id: int
    original_size: tuple[int, int]
    colour: np.ndarray


@dataclass(eq=False, repr=False)
class DetectionDataset(Dataset[Sample]):
    """The samples of one split, each a pure function of its key; subclasses override `load` alone.

    Args:
        records: The images.
        seed: Non-negative; with epoch and index it fixes the augmentation of a sample.
        augment: Draw geometry and colour; otherwise the image is only stretched to the asked size.
        native_crop: Augment with crops at native scale instead of jitter and resizing.
        keep_difficult: Train on ignorable boxes too. Has no effect without `training`.
        skip_bad_images: Take the next readable image (training) or none (evaluation) for one that cannot be read.
        training: Whether the samples are trained on.
    """

    records: Sequence[ImageRecord]
    _: KW_ONLY
    seed: int = 0
    augment: bool = False
    native_crop: bool = False
    keep_difficult: InitVar[bool] = False
    skip_bad_images: bool = False
    training: bool = False

    def __post_init__(self, keep_difficult: bool) -> None:
        # Workers read arrays alone: their reference counts would copy Python objects into every worker.
        records = self.records
        self._paths = np.array([os.fsencode(r.path) for r in records])
        self._sizes = np.array([(r.height, r.width) for r in records], dtype=np.int64).reshape(-1, 2)
        self._orientations = np.array([r.orientation for r in records], dtype=np.uint8)
        self._ids = np.array([r.ground_truth.image_id for r in records], dtype=np.int64)
        used = [r.is_target(self.training and keep_difficult) for r in records]
        self._starts = np.cumsum([0, *(u.sum() for u in used)])
        pairs = list(zip(records, used, strict=True))
        self._boxes = np.concatenate([np.zeros((0, 4)), *(r.ground_truth.boxes_xyxy[u] for r, u in pairs)])
        self._labels = np.concatenate([np.zeros(0, np.int64), *(r.ground_truth.labels[u] for r, u in pairs)])
        # Shared memory: workers mark what they could not read and the main process counts it.
        self._bad = torch.zeros(len(records), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def bad_images(self) -> list[int]:
        """Indices of the images that could not be read so far, in any worker."""
        return [int(index) for index in self._bad.nonzero()]

    def path(self, index: int) -> Path:
        """The image file of an index."""
        return Path(os.fsdecode(bytes(self._paths[index])))

    def load(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """(height, width, 3) uint8 RGB, the image at a position of the split, of at least `min_size` or whole.

        Raises:
            UserError: The image cannot be read; names the file.
        """
        height, width = self._sizes[index].tolist()
        orientation = int(self._orientations[index])
        return read_image(self.path(index), min_size, expected_size=(height, width), orientation=orientation)

    def __getitem__(self, key: SampleKey) -> Sample:
        if key.index == NO_IMAGE:
            return _no_sample(key.image_size)
        if not self.skip_bad_images:
            return self._make(key)
        for step in range(min(len(self), MAX_BAD_IN_A_ROW)):
            index = (key.index + step) % len(self)
            try:
                return self._make(key._replace(index=index))
            except UserError as error:
                if not self._bad[index]:
                    self._bad[index] = 1
                    warnings.warn(f"Skipped an image that cannot be read: {error}", stacklevel=1)
            if not self.training:
                return _no_sample(key.image_size)
        raise UserError(
            f"{min(len(self), MAX_BAD_IN_A_ROW)} images in a row cannot be read, from {self.path(key.index)} on. "
            "skip_bad_images is meant for a few: check the data set."
        )

    def _make(self, key: SampleKey) -> Sample:
        height, width = self._sizes[key.index].tolist()
        geometry, colour = WHOLE_IMAGE, NEUTRAL_COLOUR
        if self.augment:
            seeds = np.random.SeedSequence([self.seed, key.epoch, key.index])
            rng = np.random.Generator(np.random.Philox(seeds))
            geometry = draw_native_crop(rng, (height, width), key.image_size) if self.native_crop else draw_jitter(rng)
            colour = draw_colour(rng)
        stored = self.load(key.index, geometry.source_size(key.image_size))
        geometry = geometry.on_pixels(*stored.shape[:2])  # the boxes go where the pixels go
        image = resize_window(stored, geometry, key.image_size)
        span = slice(self._starts[key.index], self._starts[key.index + 1])
        boxes, kept = boxes_in_window(self._boxes[span], (height, width), geometry, key.image_size)
        return Sample(image, boxes, self._labels[span][kept], int(self._ids[key.index]), (height, width), colour)


class DetectionLoader(DataLoader[Sample]):
    """A data loader that resumes in the middle of an epoch, with empty state: the sampler reads `global_step`."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to do."""


def _no_sample(image_size: tuple[int, int]) -> Sample:
    boxes, labels = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
    return Sample(np.zeros((*image_size, 3), dtype=np.uint8), boxes, labels, NO_IMAGE, (0, 0), NEUTRAL_COLOUR)


def bucket_size(num_boxes: int) -> int:
    """The smallest of 32, 64, 128, … that holds `num_boxes`."""
    return max(32, 1 << max(0, num_boxes - 1).bit_length())


def collate(samples: Sequence[Sample]) -> DetectionBatch:
    """The uint8 batch of samples of one image size but those without an image; M is the bucket of the fullest one."""
    image_shape = samples[0].image.shape
    samples = [s for s in samples if s.image_id != NO_IMAGE]
    num_images, bucket = len(samples), bucket_size(max((len(s.labels) for s in samples), default=0))
    boxes = torch.zeros(num_images, bucket, 4)
    labels = torch.full((num_images, bucket), -1, dtype=torch.int64)
    for i, sample in enumerate(samples):
        boxes[i, : len(sample.labels)] = torch.from_numpy(sample.boxes_xyxy)
        labels[i, : len(sample.labels)] = torch.from_numpy(sample.labels)
    images = torch.empty(num_images, *image_shape, dtype=torch.uint8)
    if samples:
        np.stack([s.image for s in samples], out=images.numpy())
    return DetectionBatch(
        images=images.permute(0, 3, 1, 2),  # (B, H, W, 3) -> (B, 3, H, W)
        boxes_xyxy=boxes,
        labels=labels,
        mask=labels >= 0,
        image_ids=torch.tensor([s.image_id for s in samples], dtype=torch.int64),
        original_sizes=torch.tensor([s.original_size for s in samples], dtype=torch.float32).reshape(-1, 2),
        colour=torch.tensor([s.colour.tolist() for s in samples], dtype=torch.float32).reshape(-1, 3),
    )
