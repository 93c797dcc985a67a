"""Checks of a trainer's options against the data: accumulation, the place to go on from, limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import GradientAccumulationScheduler

from anchor_lightning.data.sampler import limited
from anchor_lightning.errors import UserError


def check_accumulation(trainer: Any) -> None:
    """Raises a `UserError` where the batches that a step accumulates change: the sampler counts with one number."""
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            raise UserError(
                f"{type(callback).__name__} changes how many batches a step accumulates, and which images a step takes "
                "is computed from one number for the whole run; remove the callback and give that number",
                argument="accumulate_grad_batches",
            )


def check_place(saved: Mapping[str, int], own: Mapping[str, int]) -> None:
    """Raises a `UserError` where a checkpoint's place in the data is none of a step of this run's.

    Args:
        saved: `TrainBatchSampler.units` in the checkpoint; empty if it has none.
        own: Those of this run.
    """
    there, here = (units["accumulate_grad_batches"] for units in (saved or own, own))
    if there != here:
        raise UserError(
            f"the checkpoint was made with {there}, this run has {here}, and the place in the data is counted in steps "
            "of that many batches; give the same, or start afresh",
            argument="accumulate_grad_batches",
        )
    there, here = (units["batches_per_epoch"] for units in (saved or own, own))
    if there != here and own["accumulate_grad_batches"] > 1:
        raise UserError(
            f"an epoch of the checkpoint has {there} batches and one of this run {here}; where steps accumulate "
            "batches, a training goes on with the same number alone: give the same batch_size, images and limits",
            argument="batch_size",
        )


def check_limits(trainer: Any, num_batches: Mapping[str, int]) -> None:
    """Checks the trainer's limits on the batches of an epoch, and its interval of validations, against the data.

    Args:
        trainer: With its options as Lightning has parsed them.
        num_batches: Batches of an epoch of each loader in use, by the loader's name in the limits' (`train`, `val`).

    Raises:
        UserError: A limit leaves nothing to train with or rounds down to no batch, or no validation would ever come.
    """
    for loader, number in num_batches.items():
        limit = getattr(trainer, f"limit_{loader}_batches")
        is_overfit = trainer.overfit_batches and loader in ("train", "val")
        option = "overfit_batches" if is_overfit else f"limit_{loader}_batches"
        is_share = isinstance(limit, float)
        if is_share and limit > 1:
            raise UserError(f"{limit} must be a share of the batches up to 1.0, or a whole number of them", option)
        if limited(number, limit) == 0 and (limit > 0 or loader == "train"):
            raise UserError(
                f"{limit} leaves no batch of the {number} that the {loader} loader has; give {1 / number:.3g} or more, "
                "or a whole number of batches",
                option,
            )
    every = getattr(trainer, "val_check_interval", None)  # not set where the interval is a time
    is_by_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches > 0
    if "train" in num_batches and isinstance(every, int) and is_by_epoch:
        per_epoch = limited(num_batches["train"], trainer.limit_train_batches)
        if every > per_epoch:
            raise UserError(
                f"{every} is more than the {per_epoch} batches of an epoch, after which the count starts again; give "
                "less, or check_val_every_n_epoch null to count over the whole training",
                argument="val_check_interval",
            )
