"""A value of the task that is a pure function of the optimizer step: the base of both warm-up schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class StepSchedule(Callback, ABC):
    """Schedule of a task's attribute, set at every step start from `global_step` alone: no checkpoint need hold it."""

    @abstractmethod
    def set_values(self, task: Any, step: int) -> None:
        """Sets the task's values for the optimizer step that begins."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the values of this step."""
        self.set_values(pl_module, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves what the next step would have begun with."""
        self.set_values(pl_module, trainer.global_step)
