"""Checkpoints that are whole or not there: written beside their target, flushed, then renamed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from anchor_lightning.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: an unfinished file of a run that still goes on could be removed there
    fcntl = None  # type: ignore[assignment]

UNFINISHED: Final = ".part"
"""Ending of a file that is being written."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, where a local file is replaced in one go.

    Lightning writes to the system's temporary folder and moves the file, which is a copy where that is another file
    system: a run killed then leaves half a checkpoint under the name of the whole one, and the copy's source besides.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint; until it lies on the disk whole, a file of that name stays what it was.

        Args:
            checkpoint: What Lightning has collected.
            path: The target; anything with a protocol (`s3://...`) is left to Lightning.
            storage_options: For other file systems than the local one.

        Raises:
            UserError: The file cannot be written; names the path and the reason.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        unfinished = target.with_name(target.name + UNFINISHED)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("wb") as file:
                    lock(file)
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(target)  # closed: Windows renames no open file
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            sync_folder(target.parent)
        except (OSError, RuntimeError) as error:
            reason = getattr(root_cause(error), "strerror", None) or str(error)
            before = f"; {target.name} there is the one from before" if target.exists() else ""
            raise UserError(
                f"the checkpoint {target} cannot be written ({reason}){before}; free some space, or change the folder",
                "default_root_dir",
            ) from error


def root_cause(error: BaseException) -> BaseException:
    """The first error of a chain: torch reports a full disk as its own failure to close an archive."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def sync_folder(folder: Path) -> None:
    """Makes the renames in a folder outlive a loss of power, where the system can."""
    with suppress(OSError):  # not on some network file systems and Windows
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock(file: BinaryIO) -> bool:
    """Takes the lock that a process holds on the file it is writing, which ends with the process, however it ends.

    Returns:
        False where another process has it, or the file system knows no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_unfinished(folder: Path) -> list[Path]:
    """Removes what a killed run has left half written in a folder of checkpoints, unless it is still being written."""
    removed = []
    for path in sorted(folder.glob(f"*{UNFINISHED}")):
        with suppress(OSError), path.open("rb") as file:
            if lock(file):
                path.unlink()
                removed.append(path)
    return removed
