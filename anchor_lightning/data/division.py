"""The splits of a data set: a share of the training images for validation, and boxes in each, of all classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.errors import UserError
from anchor_lightning.messages import info, warn
from anchor_lightning.structures import GroundTruth


class HeldOut(NamedTuple):
    """Which images of a set are validated with: a share of so many, drawn with a seed."""

    num_images: int
    share: float
    seed: int

    def __str__(self) -> str:
        return f"{self.share:g} of {self.num_images} images (split_seed {self.seed})"


def divided(
    records: Sequence[ImageRecord], share: float, seed: int, where: str
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Training and validation images of a set without a validation split; says so, on one process.

    Args:
        records: All its images.
        share: That of validation, in (0, 1); one image at least.
        seed: Of the draw.
        where: The set, for the message.
    """
    number = max(1, round(share * len(records)))
    if number >= len(records):  # one image, which cannot be divided
        return list(records), []
    drawn = set(np.random.default_rng(seed).permutation(len(records))[:number].tolist())
    info(
        f"{where} has no validation split: {number} of its {len(records)} images, drawn with data.split_seed {seed}, "
        f"are validated with (data.val_share); {len(records) - number} are trained on."
    )
    parts: tuple[list[ImageRecord], list[ImageRecord]] = ([], [])
    for index, record in enumerate(records):
        parts[index in drawn].append(record)
    return parts


def check_boxes(records: Sequence[ImageRecord], where: str, purpose: str, hint: str) -> list[GroundTruth]:
    """The ground truth of the images.

    Raises:
        UserError: No image has a box; names `where`, says that there is nothing to `purpose`, and gives the `hint`.
    """
    ground_truths = [record.ground_truth for record in records]
    if any(len(truth.labels) for truth in ground_truths):
        return ground_truths
    raise UserError(f"{where} has {len(records)} images and not one box: there is nothing to {purpose}. {hint}")


def say_unused_classes(ground_truths: Sequence[GroundTruth], class_names: Sequence[str]) -> None:
    """Names, on one process, the classes without a training box, which can never be found."""
    used = set(np.concatenate([truth.labels for truth in ground_truths]).tolist())
    if unused := [name for label, name in enumerate(class_names) if label not in used]:
        info(f"{len(unused)} of {len(class_names)} classes have no training box: {', '.join(unused)}.")


def say_other_division(there: HeldOut | None, here: HeldOut | None) -> None:
    """Warns where the training of a checkpoint held out other images for validation than this run."""
    if there != here:
        warn(
            f"The training of the checkpoint held out {there or 'nothing'} for validation, this run "
            f"{here or 'nothing'}: images that are measured were trained on, or will be. Give the val_share, "
            "split_seed, val_split and limit_val_batches of that training (config.yaml in its run folder), on the "
            "same images."
        )
