"""The folder of a run, and files in it that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from anchor_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_numbers: Final = count()  # of the unfinished files of this process, whichever thread writes them


@contextmanager
def atomic_files(*paths: Path) -> Iterator[list[Path]]:
    """Files that appear under their names all together when the block ends well; else all stays as it was.

    Yields:
        A path to write to for each, in the same folder (made if missing) and with the same suffix.

    Raises:
        UserError: The files or their folders cannot be written; names the folder and the reason.
    """
    # Numbered: a name as long as the file system takes it has no room for more.
    partial = [path.with_name(f".partial-{os.getpid()}-{next(_numbers)}{path.suffix}") for path in paths]
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
