"""The folder of a run, and files in it that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from anchor_lightning.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: an unfinished file of a run that still goes on could be removed there
    fcntl = None  # type: ignore[assignment]

UNFINISHED: Final = ".part"  # ending of a checkpoint that is being written


@contextmanager
def atomic_files(*paths: Path) -> Iterator[list[Path]]:
    """Files that appear under their names all together when the block ends well; else all stays as it was.

    Yields:
        A path to write to for each, in the same folder (made if missing) and with the same suffix.

    Raises:
        UserError: The files or their folders cannot be written; names the folder and the reason.
    """
    partial = [path.with_name(f".partial-{os.getpid()}-{path.name}") for path in paths]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():  # would stop the renaming halfway
                raise FileExistsError(f"{path} is {'a folder' if path.is_dir() else 'no plain file'}")
        try:
            yield partial
            for written, path in zip(partial, paths, strict=True):
                written.replace(path)
        finally:
            for path in partial:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{paths[0].parent} cannot be written to ({error}); choose another folder") from None


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, where a file is replaced in one go, never half copied."""

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


def run_folder(trainer: Trainer) -> Path | None:
    """Folder of the first logger as rank 0 sees it, made if need be; None with `fast_dev_run` and `barebones`."""
    if trainer.fast_dev_run or trainer.barebones:  # type: ignore[attr-defined]  # set at run time
        return None
    folder = Path(trainer.default_root_dir)
    if trainer.loggers:
        logger = trainer.loggers[0]
        if isinstance(log_dir := getattr(logger, "log_dir", None), str):
            folder = Path(log_dir)
        else:  # where Lightning's ModelCheckpoint puts its folder
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            folder = Path(logger.save_dir or folder) / str(logger.name) / version
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_folder_of_checkpoint(path: Path) -> Path:
    """Run folder of a checkpoint, which lies in its `checkpoints/`; else the folder that it lies in."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent
