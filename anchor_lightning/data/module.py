"""What all data modules add to their data sets: loaders, checks of the splits, and the step onto the device."""

from __future__ import annotations

import math
from copy import copy
from pathlib import Path
from typing import Any, Final

from lightning.pytorch import LightningDataModule
from torch.utils.data import Sampler

from anchor_lightning.data import checks, division, trainer_options
from anchor_lightning.data.annotated_set import AnnotatedSet, Split
from anchor_lightning.data.dataset import DetectionDataset, DetectionLoader, collate
from anchor_lightning.data.network_input import BatchMemory, network_input
from anchor_lightning.data.sampler import EvalBatchSampler, SampleKey, TrainBatchSampler, per_rank_batch_size
from anchor_lightning.messages import info, warn
from anchor_lightning.structures import DetectionBatch

HELD_OUT: Final = "held_out"  # key in the module's state


class DetectionDataModule(AnnotatedSet, LightningDataModule):
    """The base of the data modules: an `AnnotatedSet` with loaders for a trainer.

    A data module of your own is a subclass with `class_names` and `_read_split`.

    Args:
        kwargs: See `AnnotatedSet`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A rank without images takes part in evaluation with an empty batch, see EvalBatchSampler.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._checked: set[str] = set()  # stages
        self._datasets: dict[str, DetectionDataset] = {}
        self._memory = BatchMemory()

    def bad_images(self) -> list[Path]:
        """The images that this process and its workers could not read so far and skipped (`skip_bad_images`)."""
        return sorted({dataset.path(i) for dataset in self._datasets.values() for i in dataset.bad_images})

    def setup(self, stage: str) -> None:
        """Parse and check the splits that a stage needs: fit, validate, test or predict.

        Raises:
            UserError: A split is malformed, empty, without annotations or overlaps training, or is below one batch.
        """
        area = max(math.prod(self.image_size), math.prod(self.val_image_size))
        ranks = 1 if self.trainer is None else self.trainer.world_size
        checks.check_workers(self.num_workers, math.ceil(self.batch_size / ranks) * area * 3)
        self._validates = stage != "fit" or self.trainer is None or self.trainer.limit_val_batches > 0
        limited: dict[str, int] = {}  # loader, as the trainer's limits name it -> batches of an epoch
        if stage == "fit":
            ground_truths = self.ground_truth("train")
            if stage not in self._checked:
                division.say_unused_classes(ground_truths, self.class_names)
            if self.trainer is not None:
                limited["train"] = len(self._train_sampler())  # raises for a batch that is too large
            if self._validates:
                self.ground_truth("val")
                self._check_overlap("val")
                limited["val"] = len(self._eval_sampler("val"))
            if self.split_name("test") != self.split_name("val") and self._has_split(self.split_name("test")):
                self._check_overlap("test")
        elif stage == "predict":
            self.records("test")
            limited["predict"] = len(self._eval_sampler("test"))
        else:
            split: Split = "val" if stage == "validate" else "test"
            self.ground_truth(split)
            limited[split] = len(self._eval_sampler(split))
        name = self.split_name("test")
        is_val = name == self.split_name("val") and not self._given_splits["test"]
        if stage in ("test", "predict") and is_val and stage not in self._checked:
            info(f"Test and validation are one split of this set, {name!r}.")
        self._checked.add(stage)
        if self.trainer is not None:
            trainer_options.check_limits(self.trainer, limited)

    def _check_overlap(self, split: Split) -> None:
        train, other = ({record.path for record in self.records(role)} for role in ("train", split))
        name, argument = self._split_in_place(split), None if self.allow_overlap else f"{split}_split"
        checks.check_overlap(train & other, name, repr(self.split_name("train")), argument)

    def train_dataloader(self) -> DetectionLoader:
        """The training batches of this rank, in the seed's order, from the trainer's `global_step` on."""
        return self._loader("train", self._train_sampler(), training=True)

    def _train_sampler(self) -> TrainBatchSampler:
        options: dict[str, Any] = {}
        if (trainer := self.trainer) is not None:
            trainer_options.check_accumulation(trainer)
            options = {
                "rank": trainer.global_rank,
                "world_size": trainer.world_size,
                "accumulation": trainer.accumulate_grad_batches,
                "limit": trainer.limit_train_batches,
                "shuffle": not trainer.overfit_batches,  # type: ignore[attr-defined]  # set at run time
                "global_step": lambda: trainer.global_step,
            }
        records, seed = self.records("train"), self.data_seed
        return TrainBatchSampler(len(records), self.batch_size, self.image_size, seed=seed, **options)

    def state_dict(self) -> dict[str, Any]:
        """What the place in the data is counted in, and what is held out, in plain types for `load_state_dict`."""
        return {**self._train_sampler().units, HELD_OUT: self.held_out and list(self.held_out)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises a `UserError` where a training cannot find its place in the data: Lightning counts it in batches.

        Warns where images are trained on and measured.
        """
        if self.trainer is None:
            return
        trains = self.trainer.state.fn == "fit"
        if trains:
            trainer_options.check_place(state_dict, self.state_dict())
        if HELD_OUT in state_dict and (trains or self.held_out):  # checkpoints of before do not say it
            held_out = state_dict[HELD_OUT]
            division.say_other_division(held_out and division.HeldOut(*held_out), self.held_out)

    def val_dataloader(self) -> DetectionLoader:
        """The validation batches of this rank, each image once and in order."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DetectionLoader:
        """The test batches of this rank, each image once and in order; prediction takes them, too."""
        return self._eval_loader("test")

    predict_dataloader = test_dataloader

    def _eval_loader(self, split: Split) -> DetectionLoader:
        return self._loader(split, self._eval_sampler(split), training=False)

    def _eval_sampler(self, split: Split) -> EvalBatchSampler:
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        num_images, batch_size = len(self.records(split)), per_rank_batch_size(self.batch_size, world_size)
        return EvalBatchSampler(num_images, batch_size, self.val_image_size, rank=rank, world_size=world_size)

    def _loader(self, split: Split, batch_sampler: Sampler[list[SampleKey]], training: bool) -> DetectionLoader:
        dataset = self._make_dataset(self.records(split), training)
        self._datasets["train" if training else self.split_name(split)] = dataset
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DetectionLoader(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=on_cuda,
            persistent_workers=self.num_workers > 0,
        )

    def on_after_batch_transfer(self, batch: DetectionBatch, dataloader_idx: int) -> DetectionBatch:
        """The batch with images as float32 in [0, 1], their colours distorted while training."""
        distorts = self.augment and self.trainer is not None and self.trainer.training
        result = copy(batch)
        result.images = network_input(batch.images, batch.colour if distorts else None, self._memory)
        return result

    def teardown(self, stage: str) -> None:
        """Give the memory of the batches back, and say how many images were skipped."""
        self._memory = BatchMemory()
        if bad := self.bad_images():
            warn(f"Skipped {len(bad)} images that cannot be read, {bad[0]} for one (skip_bad_images).")
