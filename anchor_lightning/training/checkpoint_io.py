"""Writing of checkpoints that are whole or not there, and removal of what a killed run left half written."""

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

UNFINISHED: Final = ".part"  # ending of a checkpoint that is being written


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, where a file is replaced in one go, never half copied.

    Attributes:
        same_as: A file with the content that is saved next, which becomes a second name of it where the file system
            has hard links.
    """

    same_as: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint, or raises a `UserError` and leaves the file as it was; Lightning itself writes `s3://...`."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        unfinished = target.with_name(target.name + UNFINISHED)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if self.same_as is not None and _link(self.same_as, unfinished):
                    unfinished.replace(target)
                    return
                with unfinished.open("wb") as file:
                    lock(file)
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(target)  # closed: Windows renames no open file
            finally:
                unfinished.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:
            cause: BaseException = error  # torch reports a full disk as its own failure to close an archive
            while (before := cause.__cause__ or cause.__context__) is not None:
                cause = before
            reason = getattr(cause, "strerror", None) or str(cause)
            kept = f"; {target.name} there is the one from before" if target.exists() else ""
            raise UserError(
                f"the checkpoint {target} cannot be written ({reason}){kept}; free some space, or change the folder",
                "default_root_dir",
            ) from error


def _link(path: Path, name: Path) -> bool:
    try:
        name.unlink(missing_ok=True)  # of a killed run
        name.hardlink_to(path)
    except (OSError, NotImplementedError):
        return False
    return True


def lock(file: BinaryIO) -> bool:
    """Takes the lock of the process that writes a file, which ends with it; False where another process has it."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # also where the file system knows no locks
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
