"""Checkpoint files: found by name, read without running code that lies in them, refused where they are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

DEFAULT_ROOT: Final = "runs"
"""Where the run folders lie, unless `trainer.default_root_dir` says otherwise."""
NEWEST: Final = "last"


def find_checkpoint(given: str | Path, root: str | Path = DEFAULT_ROOT) -> Path:
    """The file that `--ckpt_path` names: a path, or `last` for the newest run's under `root`.

    Raises:
        ValueError: There is none.
    """
    if given == NEWEST:
        return newest_checkpoint(Path(root))
    if not Path(given).is_file():
        raise ValueError(f"--ckpt_path: there is no file {given}")
    return Path(given)


def newest_checkpoint(root: Path) -> Path:
    """The `last.ckpt` written last in any run folder under `root`.

    Raises:
        ValueError: There is none.
    """
    found = sorted(root.rglob(f"checkpoints/{NEWEST}.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ValueError(f"--ckpt_path last: no checkpoints/last.ckpt under {root} (trainer.default_root_dir)")
    return found[-1]


def read_checkpoint(path: str | Path, option: str = "--ckpt_path") -> dict[str, Any]:
    """What a checkpoint of this project holds; tensors are mapped from the file rather than read.

    Args:
        path: The file.
        option: What the user gave it as, for the messages.

    Raises:
        ValueError: The file is missing, is no checkpoint, or is not one of this project.
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
    if not isinstance(state, dict) or "shapes.log_wh" not in state:
        raise ValueError(f"{option}: {path} holds no anchor shapes (shapes.log_wh): it is not one of this project")
    return dict(content)
