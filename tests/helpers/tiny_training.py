"""Options of trainings that take a second and say little."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything

from anchor_lightning import DetectionTask
from anchor_lightning.data import SyntheticDataModule
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.structures import DetectionBatch

QUIET = [
    *("--data.num_workers", "0", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.log_every_n_steps", "1"),
]
SMALL_BATCHES = ["--data.batch_size", "2", "--data.image_size", "64"]
SMALL = [
    *("--model.detector.width", "0.1", "--data.batch_size", "2", "--data.num_workers", "0"),
    *("--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
    *("--trainer.num_sanity_val_steps", "0", "--model.detector.prior_images", "0"),
]
SYNTHETIC = [
    *("--config", "synthetic.yaml", *SMALL),
    *("--data.num_train", "6", "--data.num_val", "2", "--data.image_size", "64"),
]


def make_task(kind: type[DetectionTask] = DetectionTask, **options: Any) -> DetectionTask:
    """A small YOLOv2 from the same random weights each time."""
    seed_everything(0, verbose=False)
    detector = partial(YOLOv2, width=0.1, prior_images=0)
    defaults = {"num_classes": 4, "detector": detector, "learning_rate": 1e-3, "anchors": {"init": "uniform"}}
    return kind(**defaults | options)


def make_data(kind: type[SyntheticDataModule] = SyntheticDataModule, **options: Any) -> SyntheticDataModule:
    """Four batches of four small images."""
    sizes = {"num_train": 16, "num_val": 4, "batch_size": 4, "image_size": 64, "num_workers": 0, "seed": 0}
    return kind(**sizes | options)


def make_trainer(folder: Path, **options: Any) -> Trainer:
    """Four steps without validation, and nothing but the trainer's callbacks."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    defaults: dict[str, Any] = dict.fromkeys(off, False) | {
        "max_steps": 4,
        "accelerator": "cpu",
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "default_root_dir": folder,
    }
    return Trainer(**defaults | options)


class AtBatchStart(Callback):
    """Calls a function with trainer, task and batch at the start of each training batch; keeps what it returns."""

    def __init__(self, function: Callable[[Any, Any, DetectionBatch], Any]) -> None:
        self.function, self.seen = function, []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: DetectionBatch, batch_idx: int) -> None:
        self.seen.append(self.function(trainer, pl_module, batch))
