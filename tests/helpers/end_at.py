"""A callback of the tests: something happens to a process of a training."""

from __future__ import annotations

import os
import signal
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer


class EndAt(Callback):
    """Does something once.

    Args:
        what: Name of a signal; `error` for an exception; `nan` for images that are not finite; `stop` for the end that
            a Timer asks for.
        step: Optimizer step.
        place: Before the forward pass of a batch, after it, or before that of a validation batch.
        batch: How many batches of the step, or of the validation, went before.
        rank: Process that it happens to; all if not given.
    """

    def __init__(
        self,
        what: str,
        step: int,
        place: Literal["before", "after", "validation"] = "before",
        batch: int = 0,
        rank: int | None = None,
    ) -> None:
        self.what, self.step, self.place, self.batch, self.rank = what, step, place, batch, rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *args: Any) -> None:
        self._reached("before", trainer, batch)

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Any) -> None:
        self._reached("after", trainer)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *args: Any) -> None:
        self._reached("validation", trainer)

    def _reached(self, place: str, trainer: Trainer, batch: Any = None) -> None:
        if (place, trainer.global_step) != (self.place, self.step) or self.rank not in (None, trainer.global_rank):
            return
        self.batch -= 1
        if self.batch != -1:
            return
        if self.what == "error":
            raise KeyError("the roof came down")
        if self.what == "stop":
            trainer.should_stop = True
        elif self.what == "nan":
            batch.images.fill_(float("nan"))
        else:
            os.kill(os.getpid(), signal.Signals[self.what])
