"""Signals that end a run: noted when they come, acted on where the run can go on from later."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Final

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from anchor_lightning.training.lightning_private import cluster_environment

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Notes SIGTERM, SIGINT and SLURM's request to requeue while a training runs.

    Lightning's own handlers act within whatever the signal interrupts: a collective call of two processes, an optimizer
    step, half a window of accumulated batches. Here a handler notes the number, and whoever knows that a step is
    complete asks for it. A second SIGINT is an ordinary KeyboardInterrupt.

    Attributes:
        stop: The signal that asks for the end of the run, or None.
        requeue: Whether SLURM asked to save and requeue; Lightning's handler does both.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.requeue = False
        self._requeue_signal: int | None = None
        self._lightning: dict[int, Any] = {}

    def install(self, trainer: Trainer) -> None:
        """Takes the place of Lightning's handlers, which its teardown replaces in turn."""
        self.stop, self.requeue, self._lightning = None, False, {}
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers, and only it receives signals
        environment = cluster_environment(trainer)
        signals = list(STOPPING)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            self._requeue_signal = environment.requeue_signal
            signals.append(environment.requeue_signal)
        for number in signals:
            self._lightning[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        """Gives Lightning's handlers back."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._lightning.items():
                signal.signal(number, handler)
        self._lightning = {}

    @property
    def may_requeue(self) -> bool:
        """Whether the run is a job of SLURM's that can be requeued."""
        return self._requeue_signal is not None

    def call_requeue(self) -> None:
        """Lets Lightning save its checkpoint for SLURM and requeue the job, which ends this one."""
        self.requeue = False
        assert self._requeue_signal is not None
        self._lightning[self._requeue_signal](self._requeue_signal, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self._requeue_signal:
            self.requeue = True
            return
        if number == signal.SIGINT and self.stop == signal.SIGINT:
            raise KeyboardInterrupt
        if self.stop is None:
            self.stop = number
            again = "; again: at once" if number == signal.SIGINT else ""
            rank_zero_info(f"\n{signal.Signals(number).name}: the run is saved and ends after this step{again}.")
