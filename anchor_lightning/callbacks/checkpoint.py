"""Lightning's checkpoint callback, with `last.ckpt` up to date when training ends."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class Checkpoint(ModelCheckpoint):
    """`ModelCheckpoint` that keeps `last.ckpt` and the newest numbered file, and also saves the last step.

    Args:
        every_n_train_steps: Optimizer steps between checkpoints.
        save_top_k: Numbered checkpoints to keep: the newest, or the best by `monitor` if that is given.
        monitor: Metric to keep the best of, such as `val/map_50`.
        mode: Whether the best is the `max` or the `min`.
        filename: Name of the numbered checkpoints.
        auto_insert_metric_name: Whether names in braces are repeated in the file's name.
        save_last: Whether `last.ckpt` is kept.
        kwargs: Further options of Lightning's `ModelCheckpoint`.
    """

    def __init__(
        self,
        every_n_train_steps: int | None = 500,
        save_top_k: int = 1,
        monitor: str | None = None,
        mode: str = "max",
        filename: str | None = "step{step}",
        auto_insert_metric_name: bool = False,
        save_last: bool | Literal["link"] | None = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            every_n_train_steps=every_n_train_steps,
            save_top_k=save_top_k,
            monitor=monitor,
            mode=mode,
            filename=filename,
            auto_insert_metric_name=auto_insert_metric_name,
            save_last=save_last,
            **kwargs,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last step if no regular checkpoint fell on it (Lightning does so only if none was ever saved)."""
        if not self._should_skip_saving_checkpoint(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)
