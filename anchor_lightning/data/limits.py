"""Open files and shared memory, which worker processes need, checked before they start."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from anchor_lightning.errors import UserError

FILES: Final = 64
FILES_PER_WORKER: Final = 32
"""A worker hands over its tensors as open files: seven a batch, two batches ahead, and its pipes."""
SHARED: Final = Path("/dev/shm")
"""Where they lie on Linux; docker gives it 64 MB."""
WANTED_FILES: Final = 4096


def check_limits(num_workers: int, batch_bytes: int) -> None:
    """Raises an error for workers that would stop the process for ever, or be killed, with their first batches.

    The limit of open files is raised as far as the process may.

    Args:
        num_workers: Of a loader; nothing is needed for 0.
        batch_bytes: Of the images of one batch.

    Raises:
        UserError: There may be too few open files, or not one batch a worker fits into the shared memory.
    """
    if num_workers == 0:
        return
    needed, allowed = FILES + FILES_PER_WORKER * num_workers, _open_files()
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
