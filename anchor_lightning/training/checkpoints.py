"""Lightning's checkpoint callback, and the saving of a run that a signal ends."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anchor_lightning.errors import UserError
from anchor_lightning.training.best_checkpoint import ContinuedCheckpoint
from anchor_lightning.training.checkpoint_files import PROJECT_KEY
from anchor_lightning.training.checkpoint_io import AtomicCheckpointIO, remove_unfinished
from anchor_lightning.training.lightning_private import (
    cluster_environment,
    mark_batch_end,
    mark_validation_due,
    stops_early,
    validation_follows,
)


class StopSignals:
    """SIGTERM, SIGINT and SLURM's request to requeue, noted while a training runs; a second SIGINT interrupts at once.

    Attributes:
        stop: The signal that asks for the end of the run, or None.
        requeue: Whether SLURM asked to save and requeue; Lightning's handler does both.
        requeue_signal: What SLURM asks with; None where the run is not a job that can be requeued.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.requeue = False
        self.requeue_signal: int | None = None
        self._lightning: dict[int, Any] = {}

    def install(self, trainer: Trainer) -> None:
        """Takes the place of Lightning's handlers, which its teardown replaces in turn."""
        self.stop, self.requeue = None, False
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers, and only it receives signals
        environment = cluster_environment(trainer)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self.requeue_signal = environment.requeue_signal
        for number in (signal.SIGTERM, signal.SIGINT, self.requeue_signal):
            if number is not None:
                self._lightning[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        """Gives Lightning's handlers back."""
        while self._lightning:
            signal.signal(*self._lightning.popitem())

    def call_requeue(self) -> None:
        """Lets Lightning save its checkpoint for SLURM and requeue the job, which ends this one."""
        self.requeue = False
        assert self.requeue_signal is not None
        self._lightning[self.requeue_signal](self.requeue_signal, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.requeue_signal:
            self.requeue = True
        elif number == self.stop == signal.SIGINT:
            raise KeyboardInterrupt
        elif self.stop is None:
            self.stop = number
            again = "; again: at once" if number == signal.SIGINT else ""
            rank_zero_info(f"\n{signal.Signals(number).name}: the run is saved and ends after this step{again}.")


class RunCheckpoint(ContinuedCheckpoint):
    """`ModelCheckpoint` at the end of optimizer steps, from which a resumed run equals one that was never stopped.

    The last step, and the one that SIGTERM or SIGINT interrupts (status 143 and 1), are saved as well; a validation
    cut short is repeated by the resumed run. Writes are atomic. Where the file system has hard links, the numbered file
    and `last.ckpt` are one file from the second step on that is saved.

    Args:
        every_n_train_steps: Optimizer steps between checkpoints.
        save_top_k: Numbered checkpoints to keep: 1 for the newest, 0 for none, -1 for all.
        filename: Name of the numbered checkpoints.
        auto_insert_metric_name: Whether names in braces are repeated in the file's name.
        save_last: Whether `last.ckpt` is kept.
        kwargs: Further options of Lightning's `ModelCheckpoint`.
    """

    def __init__(
        self,
        every_n_train_steps: int | None = 500,
        save_top_k: int = 1,
        filename: str | None = "step{step}",
        auto_insert_metric_name: bool = False,
        save_last: bool | Literal["link"] | None = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            every_n_train_steps=every_n_train_steps,
            save_top_k=save_top_k,
            monitor=None,  # `BestCheckpoint` has one
            mode="max",
            filename=filename,
            auto_insert_metric_name=auto_insert_metric_name,
            save_last=save_last,
            save_on_exception=False,  # it would be within a step
            train_time_interval=None,  # it is not the same in a run that was stopped
            **kwargs,
        )
        self._signals = StopSignals()
        self._step = -1  # the optimizer step in progress
        self._ending = False  # whether a signal has come on any process, and its step is saved
        self._stopping = False  # whether a callback has asked within a step for the end of the run
        self._unscheduled = False  # whether the checkpoint is written in a validation that an early end has brought
        self._validation_due = False  # whether the checkpoint that is written needs its validation repeated
        self._unflushed = False  # whether a checkpoint was written since the loggers' files were
        self._written: tuple[int, str, str] | None = None  # what tells the last content that was written from others

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes writing atomic."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user chose
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cleans up after a killed run; a `UserError` where the processes would continue different checkpoints."""
        path = trainer.ckpt_path
        if (first := trainer.strategy.broadcast(path)) != path:
            raise UserError(
                f"process {trainer.global_rank} would continue {path}, process 0 {first}; give the path of a file that "
                "all processes read",
                "ckpt_path",
            )
        if path and trainer.is_global_zero:
            remove_unfinished(Path(path).parent)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to listen to signals."""
        super().on_train_start(trainer, pl_module)
        self._step, self._ending, self._stopping = -1, False, False
        self._signals.install(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends the run if a signal came in the step before, all of which is logged now."""
        if self._unflushed:
            for logger in trainer.loggers:
                logger.save()  # what was logged up to the checkpoint must not be lost with the steps after it
            self._unflushed = False
        if self._ending:
            self._end()
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves an optimizer step that no validation follows."""
        self._defer_stop(trainer)
        if not self._is_counted_end(trainer) and not validation_follows(trainer):
            self._finish_step(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last optimizer step of an epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        self._finish_step(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the step before the validation and ends the run, if a signal came in that step."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._signalled(trainer):
            self._end_validation(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Ends the run at once when a signal came: a validation may last longer than the time that is left."""
        # Several processes have not the same batches to ask each other in.
        if trainer.state.fn == "fit" and trainer.world_size == 1 and self._signals.stop is not None:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set at run time
                if isinstance(callback, WeightAveraging):  # validates the averaged weights in the place of the raw ones
                    callback.on_validation_epoch_end(trainer, pl_module)
            self._end_validation(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the optimizer step before the validation."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._defer_stop(trainer)
            self._unscheduled = stops_early(trainer) and not self._is_counted_end(trainer)
            try:
                self._finish_step(trainer)
            finally:
                self._unscheduled = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last step if nobody knew before that it is the last."""
        if self._step >= 0:  # else all was done before
            self._save(trainer)
        self._signals.remove()
        if self._ending:
            self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stops listening to signals."""
        self._signals.remove()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes a validation that is still to be done, or that a resumed run would not expect."""
        if self._unscheduled:
            mark_batch_end(checkpoint)
        if self._validation_due:
            mark_validation_due(checkpoint)
            checkpoint.setdefault(PROJECT_KEY, {})["validation_due"] = True

    def _is_counted_end(self, trainer: Trainer) -> bool:
        # A run that counts epochs only loses its place when it is resumed for the second time, once from a batch's end.
        return bool(trainer.is_last_batch and trainer.max_steps == -1)

    def _defer_stop(self, trainer: Trainer) -> None:
        """Lets a stop that a callback asks for within accumulated batches wait for the end of their step."""
        in_step = trainer.global_step == self._step
        self._stopping |= trainer.should_stop
        trainer.should_stop = self._stopping and not in_step

    def _finish_step(self, trainer: Trainer) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of accumulated batches, or done before
        self._step = trainer.global_step
        if self._signals.requeue_signal is not None and anywhere(trainer, self._signals.requeue):
            self._signals.call_requeue()
        self._ending = self._signalled(trainer)
        every = self._every_n_train_steps
        is_due = every > 0 and trainer.global_step % every == 0
        is_last = trainer.global_step == trainer.max_steps or (
            trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        )
        if is_due or is_last or self._ending or stops_early(trainer):
            self._save(trainer, numbered=True)

    def _save(self, trainer: Trainer, numbered: bool = False) -> None:
        if self._should_skip_saving_checkpoint(trainer):
            return
        candidates = self._monitor_candidates(trainer)
        if numbered or self.save_last == "link":  # Lightning then only points `last.ckpt` to the numbered file
            self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # The content names the other checkpoints of the run; once it names this one, both names may share one file.
        content = trainer.global_step, self.best_model_path, self.last_model_path
        checkpoint_io = trainer.strategy.checkpoint_io
        if isinstance(checkpoint_io, AtomicCheckpointIO):
            checkpoint_io.same_as = Path(self._last_checkpoint_saved) if content == self._written else None
        super()._save_checkpoint(trainer, filepath)
        if isinstance(checkpoint_io, AtomicCheckpointIO):
            checkpoint_io.same_as = None
        self._written = content
        self._unflushed = True  # not now: Lightning logs the step's losses after this

    def _signalled(self, trainer: Trainer) -> bool:
        return anywhere(trainer, self._signals.stop is not None)

    def _end_validation(self, trainer: Trainer) -> None:
        if trainer.global_step != self._step:  # else in the middle of accumulated batches
            self._validation_due = True
            try:
                self._save(trainer)
            finally:
                self._validation_due = False
        self._end()

    def _end(self) -> None:
        raise KeyboardInterrupt if self._signals.stop == signal.SIGINT else SIGTERMException


def anywhere(trainer: Trainer, flag: bool) -> bool:
    """Whether a flag is set on any of the run's processes; all of them have to ask."""
    # With one process the question need not go through the device, which would wait for it.
    return flag if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(flag, all=False))
