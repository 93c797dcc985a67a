"""Checkpoint files: found by name, read without running code that lies in them, refused where they are none."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch.utilities import rank_zero_warn

DEFAULT_ROOT: Final = "runs"
"""Where the run folders lie, unless `trainer.default_root_dir` says otherwise."""
NEWEST: Final = "last"
OURS: Final = "anchor_lightning"
"""Key of a checkpoint that holds what Lightning does not know of."""
FORMAT: Final = 1
"""Version of what lies under `OURS`; a checkpoint without one is of format 0."""


def find_checkpoint(given: str | Path, root: str | Path = DEFAULT_ROOT) -> Path:
    """The file that `--ckpt_path` names: a path, or `last` for the newest run's under `root`.

    Raises:
        ValueError: There is none.
    """
    if given != NEWEST:
        if not Path(given).is_file():
            raise ValueError(f"--ckpt_path: there is no file {given}")
        return Path(given)
    if (newest := next(newest_checkpoints([Path(root)]), None)) is None:
        raise ValueError(f"--ckpt_path last: no checkpoints/last.ckpt under {root} (trainer.default_root_dir)")
    return newest


def newest_checkpoints(folders: Sequence[Path], strict: bool = True) -> Iterator[Path]:
    """The newest checkpoint of each run, and what SLURM's requeueing wrote, the newest first.

    A damaged one is passed over, with a warning, for the newest other checkpoint of its run.

    Args:
        folders: Where run folders lie, at any depth.
        strict: Whether a run that has no other is an error; else it is passed over, too.

    Raises:
        ValueError: All checkpoints of a run are damaged.
    """
    runs = {path: by_age(path.glob("*.ckpt")) for folder in folders for path in folder.rglob("checkpoints")}
    requeued = {path: [path] for folder in folders for path in requeue_checkpoints(folder)}
    for files in sorted((*runs.values(), *requeued.values()), key=lambda files: files and age(files[0]), reverse=True):
        damaged = ""
        for path in files:
            if not (reason := damage(path)):
                if damaged:
                    rank_zero_warn(f"{damaged}; the one before it is taken: {path}")
                yield path
                break
            damaged = damaged or f"{path} is damaged ({reason})"
        else:
            if not damaged:
                continue  # an empty folder
            if strict and files[0].parent in runs:
                raise ValueError(
                    f"{damaged}, and there is no other checkpoint of that run. Remove it and start afresh, or give the "
                    "path of another one as --ckpt_path."
                )
            rank_zero_warn(f"{damaged} and is passed over.")


def requeue_checkpoints(folder: Path) -> list[Path]:
    """What Lightning has written into a folder when SLURM asked for it, the newest first."""
    return by_age(folder.glob("hpc_ckpt_*.ckpt"))


def by_age(paths: Iterable[Path]) -> list[Path]:
    """The files, the one written last first; links to nothing are left out."""
    return sorted((path for path in paths if path.is_file()), key=age, reverse=True)


def age(path: Path) -> int:
    """When a file was written."""
    return path.stat().st_mtime_ns


def damage(path: Path) -> str:
    """What is wrong with the bytes of a checkpoint; empty if nothing is.

    Every byte is read and compared with its checksum, which loading does not do.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if name := archive.testzip():
                return f"{name} has changed"
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # both raise whatever the bytes lead them to
        return str(error).split(". ")[0].split("\n")[0] or type(error).__name__
    return ""


def read_checkpoint(path: str | Path, option: str = "--ckpt_path") -> dict[str, Any]:
    """What a checkpoint of this project holds; tensors are mapped from the file rather than read.

    Args:
        path: The file.
        option: What the user gave it as, for the messages.

    Raises:
        ValueError: The file is missing, is no checkpoint, is not one of this project, or is of a newer version of it.
    """
    try:
        with Path(path).open("rb"):
            pass
    except FileNotFoundError:
        raise ValueError(f"{option}: there is no file {path}") from None
    except OSError as error:
        raise ValueError(f"{option}: {path} cannot be read ({error.strerror})") from None
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch.load raises whatever the bytes lead it to, and its reasons are about bytes
        raise ValueError(
            f"{option}: {path} is no checkpoint that can be read: it is cut off, or of another kind of file, or holds "
            "objects other than tensors and plain values, which are not loaded"
        ) from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    key = next((k for k in state if k.endswith(".log_wh")), None) if isinstance(state, dict) else None
    if not isinstance(state, dict) or key is None:
        raise ValueError(f"{option}: {path} holds no anchor shapes (log_wh): it is not one of this project")
    if not isinstance(content.get("hyper_parameters", {}), dict) or getattr(state[key], "ndim", 0) != 2:
        raise ValueError(
            f"{option}: {path} has hyper_parameters or shapes of another form: it is not one of this project"
        )
    if not isinstance(content.get("global_step", 0), int):
        raise ValueError(f"{option}: {path}: its global_step is {content['global_step']!r}, not a number of steps")
    checkpoint: dict[str, Any] = dict(content)
    try:
        migrate(checkpoint)
    except ValueError as error:
        raise ValueError(f"{option}: {path}: {error}") from None
    return checkpoint


def migrate(checkpoint: dict[str, Any]) -> None:
    """Brings an older checkpoint to the present format, in place.

    Format 0, up to version 0.1.0, has no number and may lack the count of images seen before; the shapes, the network
    and the optimizer are the same.

    Raises:
        ValueError: It was written by a later version of this project.
    """
    ours = dict(checkpoint.get(OURS, {}))
    version = ours.get("format", 0)
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(
            f"The checkpoint is of format {version}, and this version of anchor_lightning reads up to {FORMAT}; "
            "update anchor_lightning."
        )
    checkpoint[OURS] = {"images_before": 0} | ours | {"format": FORMAT}
