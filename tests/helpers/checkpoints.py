"""Checkpoints of tasks that were never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from anchor_lightning.task import DetectionTask


def save_task(task: DetectionTask, path: Path, **details: Any) -> Path:
    """Writes a task as a run would leave it.

    Args:
        task: The task.
        path: Of the checkpoint.
        details: What else the run says of itself: `image_size`, `images_seen`, ...
    """
    checkpoint: dict[str, Any] = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": "2.6.0",
        "anchor_lightning": details,
    }
    task.on_save_checkpoint(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return path
