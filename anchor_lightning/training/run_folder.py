"""The folder of a run, which holds what it logs, draws and saves."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer


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
