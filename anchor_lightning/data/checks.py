"""Checks of options before anything starts: sizes of the network input, needs of workers, the trainer's limits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_warn

from anchor_lightning.data.sampler import limited
from anchor_lightning.errors import UserError

MULTIPLE: Final = 32  # pixels, the coarsest stride of the detectors
LARGEST: Final = 16384  # Pixels; one such image is 3 GB as the network sees it
SHARED: Final = Path("/dev/shm")  # Where tensors of workers lie on Linux; docker gives it 64 MB
WANTED_FILES: Final = 4096


def parse_image_size(value: int | list[int], argument: str = "image_size") -> tuple[int, int]:
    """Height and width from one int or [height, width] in pixels; errors name the `argument`.

    Raises:
        UserError: A side is no positive multiple of 32; names the nearest valid values.
    """
    sides = [value, value] if isinstance(value, int) else list(value)
    if len(sides) != 2:
        raise UserError(f"must be one int or [height, width], got {value!r}.", argument)
    for side in sides:
        if side > LARGEST:
            raise UserError(f"must be {LARGEST} or less, got {value!r}.", argument)
        if side <= 0 or side % MULTIPLE:
            lower = side // MULTIPLE * MULTIPLE
            nearest = f"{lower} or {lower + MULTIPLE}" if lower > 0 else str(MULTIPLE)
            raise UserError(f"must be a positive multiple of {MULTIPLE}, got {value!r}. Try {nearest}.", argument)
    return sides[0], sides[1]


def check_workers(num_workers: int, batch_bytes: int) -> None:
    """Raises the limit of open files, and an error where workers with batches of so many bytes would hang or be killed.

    Raises:
        UserError: There may be too few open files, or not one batch a worker fits into the shared memory.
    """
    if num_workers == 0:
        return
    # A worker hands over its tensors as open files: seven a batch, two batches ahead, and its pipes.
    needed, allowed = 64 + 32 * num_workers, _open_files()
    if allowed is not None and allowed < needed:
        raise UserError(
            f"{num_workers} workers need about {needed} open files, and the process may have {allowed}. Raise the "
            f"limit (ulimit -n {WANTED_FILES}), or give 0.",
            argument="num_workers",
        )
    if SHARED.is_dir() and (free := shutil.disk_usage(SHARED).free) < num_workers * batch_bytes:
        raise UserError(
            f"{num_workers} workers need {num_workers * batch_bytes / 1e6:,.1f} MB of shared memory, and {SHARED} has "
            f"{free / 1e6:,.1f} MB. Enlarge it (docker run --shm-size), or lower num_workers or batch_size.",
            argument="num_workers",
        )


def _open_files() -> int | None:
    """Files that the process may have open, after asking for more; None where there is no such limit (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < WANTED_FILES:
        with suppress(OSError, ValueError):
            more = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def check_overlap(shared: Set[Path], split: str, train: str, argument: str | None) -> None:
    """Says that training has images of another split.

    Args:
        shared: The images.
        split: Name of the other split.
        train: Name of the training split.
        argument: The option that gave the other split; None where such images are allowed, and only warned of.

    Raises:
        UserError: There are such images and they are not allowed.
    """
    if not shared:
        return
    found = f"{len(shared)} images of {split} are also in the training split {train}, {min(shared).name} for one"
    if argument is not None:
        raise UserError(f"{found}. Give splits without common images, or allow_overlap true to mean it.", argument)
    rank_zero_warn(f"{found}: its metrics also show what was learned by heart.")


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
