"""A callback of the tests, given on the command line: something happens to a rank of a run."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EndAt(Callback):
    """Sends a signal, or raises, when a batch of an optimizer step begins.

    Args:
        step: Optimizer step.
        rank: The process that it happens to; -1: all of them.
        signal: Its number; 0: an exception.
    """

    def __init__(self, step: int, rank: int, signal: int) -> None:
        self.step, self.rank, self.signal = step, rank, signal

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and self.rank in (-1, trainer.global_rank):
            self.step = -1
            if not self.signal:
                raise KeyError("the roof came down")
            os.kill(os.getpid(), self.signal)
