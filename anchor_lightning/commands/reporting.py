"""What a run that cannot go on says: one sentence where the reason is known, else Python's traceback."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException

HERE: Final = Path(__file__).resolve().parents[1]
LIGHTNING: Final = Path(lightning.__file__).resolve().parent
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_FILES: Final = (errno.EMFILE, errno.ENFILE)
UNWRITABLE: Final = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR),
    errno.ENOENT,
)
MEMORY: Final = ("can't allocate memory", "Insufficient memory", "out of memory", "Cannot allocate memory")
WORKER: Final = "DataLoader worker"


def sentence(error: BaseException) -> str | None:
    """What to tell the user of an error; None where only its traceback tells enough."""
    if (ours := raised_here(error)) is not None:
        return str(ours)
    for cause in chain(error):
        if (text := _known(cause)) is not None:
            return text
    return None


def raised_here(error: BaseException | None) -> BaseException | None:
    """The error itself, or the one that caused it, if this package raised it; None if it came from somewhere else."""
    while error is not None:
        if isinstance(error, ValueError | RuntimeError | FloatingPointError) and _raised_in(error, HERE):
            return error
        error = error.__cause__  # jsonargparse wraps what a class raises when it is made
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it came from or happened in the handling of, the newest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _raised_in(error: BaseException, folder: Path) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(folder)


def _known(error: BaseException) -> str | None:
    text = " ".join(str(error).split())
    if (isinstance(error, OSError) and error.errno in NO_FILES) or "Too many open files" in text:
        return f"{text}: raise the limit of open files (ulimit -n 4096), or lower data.num_workers"
    if (isinstance(error, OSError) and error.errno in NO_ROOM) or "No space left on device" in text:
        return f"{text}: make room, or give another folder as trainer.default_root_dir; what was complete is kept"
    if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is not None:
        return (
            f"{error.filename} cannot be read or written ({error.strerror}); correct the path, or give another "
            "trainer.default_root_dir or save_dir"
        )
    if isinstance(error, MemoryError) or any(words in text for words in MEMORY):
        return f"out of memory ({text[:200]}); lower data.batch_size, data.image_size or data.num_workers"
    if WORKER in text:
        return f"a data worker died ({text[:200]}); it may be out of memory: lower data.num_workers or data.batch_size"
    if type(error).__module__.startswith(("wandb", "pydantic")):
        return (
            f"W&B refused the run ({text[:200]}): see WANDB_MODE, WANDB_BASE_URL and `wandb login`, or train with "
            "--config logger/csv.yaml"
        )
    if isinstance(error, MisconfigurationException) or (isinstance(error, ValueError) and _raised_in(error, LIGHTNING)):
        return text
    return None
