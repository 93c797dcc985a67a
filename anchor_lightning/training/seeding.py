"""Random draws that depend on the optimizer step alone."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from anchor_lightning.data.sampler import step_seed


class StepSeed(Callback):
    """Seeds torch at every optimizer step, so that a resumed step samples the proposals that it would have sampled."""

    def __init__(self) -> None:
        self._step = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the step of an earlier run."""
        self._step = -1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seeds once a step, also where batches accumulate."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            torch.manual_seed(step_seed(self._step, trainer.global_rank))
