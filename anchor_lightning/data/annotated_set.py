"""A data set with boxes: its options, and the images and boxes of its splits; without Lightning and its import."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from anchor_lightning.data import checks
from anchor_lightning.data.box_shapes import training_box_shapes
from anchor_lightning.data.dataset import DetectionDataset, ImageRecord
from anchor_lightning.data.division import HeldOut, check_boxes, divided
from anchor_lightning.data.sampler import per_rank_batch_size
from anchor_lightning.errors import UserError
from anchor_lightning.structures import GroundTruth

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class AnnotatedSet(ABC):
    """The base of the data sets; a concrete one supplies `class_names` and `_read_split`.

    It takes all options of its data module (`VOCSet` those of `VOCDataModule`), which adds the loaders for a trainer.

    Args:
        root: Folder of the data set.
        batch_size: Images of the global batch, divided among the processes.
        image_size: Side, or height and width, of the network input in training; in pixels, multiples of 32.
        val_image_size: The same for validation, test and prediction; `image_size` if not given.
        num_workers: Worker processes of a loader. The samples do not depend on it.
        train_split: Name of the training split; the default depends on the data set.
        val_split: Name of the validation split.
        test_split: Name of the test split, which prediction uses too.
        augment: Draw geometry and colour in training.
        keep_difficult: Train on boxes marked difficult (VOC) or crowd (COCO). Evaluation ignores them in any case.
        skip_bad_images: Warn of an image that cannot be read; training takes the next one, evaluation leaves it out.
        val_share: Share of the training images that validation gets where the set has no validation split, in [0, 1);
            0 leaves such a set without.
        split_seed: Of the draw of these images.
        allow_overlap: Warn of images that training and evaluation share, rather than end with an error.
        seed: Of order and augmentation; that of `seed_everything` if not given, 0 if there is none either.

    Attributes:
        held_out: What says which of the training images are validated with: number of all, share and seed of the draw;
            None where validation has a split of its own, or none was asked for yet.

    Raises:
        UserError: An image size is no positive multiple of 32, or a number is out of range.
    """

    root_content: ClassVar[str] = "the folder of the data set"  # for the error where `root` is not given
    native_crop = False  # Whether training crops at native scale instead of jitter and resizing

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        image_size: int | list[int] = 416,
        val_image_size: int | list[int] | None = None,
        num_workers: int = 2,
        train_split: str | None = None,
        val_split: str | None = None,
        test_split: str | None = None,
        augment: bool = True,
        keep_difficult: bool = False,
        skip_bad_images: bool = False,
        val_share: float = 0.2,
        split_seed: int = 0,
        allow_overlap: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()  # Lightning's, of a data module
        self.root = None if root is None else Path(root).expanduser()
        self.image_size = checks.parse_image_size(image_size)
        self.val_image_size = (
            self.image_size if val_image_size is None else checks.parse_image_size(val_image_size, "val_image_size")
        )
        per_rank_batch_size(batch_size, 1)
        for name, value in (("num_workers", num_workers), ("seed", seed or 0), ("split_seed", split_seed)):
            if value < 0:
                raise UserError(f"must be 0 or more, got {value}.", argument=name)
        if not 0 <= val_share < 1:
            raise UserError(f"must be in [0, 1), got {val_share}.", argument="val_share")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = augment
        self.keep_difficult = keep_difficult
        self.skip_bad_images = skip_bad_images
        self.val_share = val_share
        self.split_seed = split_seed
        self._validates = True  # whether a training validates; else nothing is held out for it
        self.allow_overlap = allow_overlap
        self._given_seed = seed
        self._given_splits: dict[Split, str | None] = {"train": train_split, "val": val_split, "test": test_split}
        self._records: dict[str, Sequence[ImageRecord]] = {}
        self.held_out: HeldOut | None = None

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels; available before `setup`."""

    @abstractmethod
    def _read_split(self, name: str) -> list[ImageRecord]:
        """Parse and check one split; its box warnings are given here, once."""

    def _default_split(self, role: Split) -> str:
        """Name of the split that a role takes when none is given."""
        return role

    def _has_split(self, name: str) -> bool:
        """Whether `_read_split(name)` would find its files."""
        return False

    def _root(self) -> Path:
        if self.root is None:
            raise UserError(f"is not given. Set it to {self.root_content}.", argument="root")
        if not self.root.is_dir() and (problem := self._no_folder(self.root)):
            raise UserError(problem, argument="root")
        return self.root

    def _no_folder(self, root: Path) -> str | None:
        """What to do where `root` is no folder; None where that is no error."""
        is_file = root.is_file()
        return f"{root} is a file: give it as --data {root}" if is_file else f"there is no folder {root}: correct it"

    def _make_dataset(self, records: Sequence[ImageRecord], training: bool) -> DetectionDataset:
        """The dataset over the records; for modules whose images do not come from files."""
        return DetectionDataset(
            records,
            seed=self.data_seed,
            augment=training and self.augment,
            native_crop=self.native_crop,
            keep_difficult=self.keep_difficult,
            skip_bad_images=self.skip_bad_images,
            training=training,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def data_seed(self) -> int:
        """The seed in use."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self._given_seed is None else self._given_seed

    def split_name(self, split: Split) -> str:
        """The name of the data set's own split that plays a role."""
        given = self._given_splits[split]
        return self._default_split(split) if given is None else given

    def records(self, split: Split) -> Sequence[ImageRecord]:
        """The images of a split, parsed on first use.

        Raises:
            UserError: Annotations are malformed or missing, or the split has no image.
        """
        name = self.split_name(split)
        if name not in self._records:
            train, val = self.split_name("train"), self.split_name("val")
            if name in (train, val) and self._holds_out:
                parts = divided(self._images_of("train"), self.val_share, self.split_seed, self._place())
                self._records |= {name: part for name, part in zip((train, val), parts, strict=True) if part}
                self.held_out = HeldOut(sum(map(len, parts)), self.val_share, self.split_seed) if parts[1] else None
            if name not in self._records:
                self._records[name] = self._images_of(split)
        return self._records[name]

    def _images_of(self, split: Split) -> list[ImageRecord]:
        records = self._read_split(self.split_name(split))
        if not records:
            raise UserError(
                f"{self._split_in_place(split)} has no images. Give another split, or check the list it is made from.",
                argument=f"{split}_split",
            )
        return records

    @property
    def _holds_out(self) -> bool:
        """Whether validation gets a share of the training images, because the set has no validation split."""
        given, default = self._given_splits["val"], self._default_split("val")
        is_missing = given is None and not self._has_split(default) and self._has_split(self.split_name("train"))
        return self.val_share > 0 and self._validates and is_missing

    def hold_out_nothing(self) -> None:
        """Trains on all training images from now on, also where some were held out for validation before."""
        if self._holds_out:
            self._records.clear()
        self.val_share, self.held_out = 0, None

    def image_names(self, split: Split, image_ids: Sequence[int]) -> list[str]:
        """The names of images by their ids."""
        names = {record.ground_truth.image_id: record.name for record in self.records(split)}
        return [names[image_id] for image_id in image_ids]

    def ground_truth(self, split: Split) -> list[GroundTruth]:
        """All boxes of a split, the ignorable ones included, in the order of `records`.

        Raises:
            UserError: As `records`, or no image of the split has a box.
        """
        purpose = "learn from" if split == "train" else "measure against"
        records = self.records(split)
        hint = self._label_hint(records[0].path)
        return check_boxes(records, self._split_in_place(split), purpose, hint)

    def _place(self) -> str:
        """The set, for messages."""
        return str(self.root or "the set")

    def _split_in_place(self, split: Split) -> str:
        """A split of the set, for messages."""
        return f"{self.split_name(split)!r} of {self._place()}"

    def _label_hint(self, path: Path) -> str:
        """Where the boxes of an image are looked for, for messages."""
        return f"Look at the annotations of {path}."

    def train_box_shapes(self, augmented: bool = False) -> Tensor:
        """(N, 2) float32 sizes of the training boxes in pixels of the network input, whole or once `augmented`."""
        return training_box_shapes(
            self.records("train"), self.image_size, self.keep_difficult, self.native_crop, augmented
        )
