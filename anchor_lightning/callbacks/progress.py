"""How far a training is: a bar over all of its optimizer steps, and a line after each validation."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, Final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from tqdm.contrib.logging import logging_redirect_tqdm

from anchor_lightning import messages

SHOWN: Final = ("val/map", "val/map_50", "val/map_voc")
OF_CLASS: Final = "val/ap_50/"
MAX_CLASSES, LOWEST = 20, 10  # of so many all are shown, of more only so many
LOGGERS: Final = ("lightning.pytorch", "lightning.fabric", messages.LOGGER)  # those that write to the console


class StepProgressBar(TQDMProgressBar):
    """Lightning's bar, counting the optimizer steps of the whole training instead of the batches of an epoch.

    What is logged while it is up is written above it. There is none where the output is no terminal, as in a log file.
    """

    def __init__(self) -> None:
        super().__init__()
        self._redirected = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Turns the bar off without a terminal; else it shares the terminal with what is logged."""
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self.disable()
        if self.is_enabled:
            self._redirected.enter_context(logging_redirect_tqdm([logging.getLogger(name) for name in LOGGERS]))

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Begins at the step that the run goes on from."""
        super().on_train_start(trainer, *args)
        bar = self.train_progress_bar
        bar.total, bar.initial, bar.unit = num_steps(trainer), trainer.global_step, "step"
        bar.n = bar.last_print_n = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Lightning would count from 0 again."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Shows the steps so far."""
        bar = self.train_progress_bar
        bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
        bar.update(trainer.global_step - bar.n)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Lightning's, without the number of the run's folder."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the terminal back."""
        self._redirected.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        self._redirected.close()


class ValidationSummary(Callback):
    """A line after each validation of a training: the step, the average precisions, and the time that is left.

    With several classes a second line has the average precision of each; of many, of those that are found worst.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes where and when the training begins."""
        self._first, self._start = trainer.global_step, time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says the lines."""
        found = {name: float(trainer.callback_metrics[name]) for name in SHOWN if name in trainer.callback_metrics}
        if trainer.state.fn != "fit" or trainer.sanity_checking or not found:
            return
        step, steps = trainer.global_step, num_steps(trainer)
        place, left = f"step {step:,}", ""
        if steps is not None:
            place += f" of {steps:,}"
            if step > self._first:
                seconds = (time.monotonic() - self._start) / (step - self._first) * (steps - step)
                left = f"; {timedelta(seconds=round(seconds))} left"
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        rank_zero_info(f"{place}: {metrics}{left}")
        by_class = {
            name.removeprefix(OF_CLASS): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(OF_CLASS)
        }
        if len(by_class) > 1:
            rank_zero_info(f"    {classes_text(by_class)}")


def classes_text(average_precisions: Mapping[str, float]) -> str:
    """The average precision of each class in one line, or the lowest of many; `-` is one without boxes."""
    shown, which = dict(average_precisions), ""
    if len(shown) > MAX_CLASSES:
        measured = {name: value for name, value in shown.items() if not math.isnan(value)}
        shown = dict(sorted(measured.items(), key=lambda item: item[1])[:LOWEST])
        which = f", the lowest {len(shown)} of {len(measured)} classes"
    texts = (f"{name} {'-' if math.isnan(value) else f'{value:.4f}'}" for name, value in shown.items())
    return f"AP at IoU 0.5{which}: {', '.join(texts)}"


def num_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole training; None where it has no end."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if math.isfinite(steps) else None
