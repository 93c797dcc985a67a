"""Checks of options before anything starts: sizes of the network input, needs of workers, splits with common images."""

from __future__ import annotations

import shutil
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from anchor_lightning.errors import UserError, whole_number
from anchor_lightning.messages import warn

MULTIPLE: Final = 32  # pixels, the coarsest stride of the detectors
LARGEST: Final = 16384  # Pixels; one such image is 3 GB as the network sees it
SHARED: Final = Path("/dev/shm")  # Where tensors of workers lie on Linux; docker gives it 64 MB
WANTED_FILES: Final = 4096


def parse_image_size(value: int | Sequence[int], argument: str = "image_size") -> tuple[int, int]:
    """Height and width from one int or [height, width] in pixels; errors name the `argument`.

    Raises:
        UserError: A side is no positive multiple of 32; names the nearest valid values.
    """
    given: Any = value if isinstance(value, Sequence) or np.ndim(value) else (value, value)
    sides = [whole_number(side, argument) for side in given]
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
    warn(f"{found}: its metrics also show what was learned by heart.")
