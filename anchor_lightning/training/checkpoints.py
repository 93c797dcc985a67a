"""Lightning's checkpoint callback, and the saving of a run that ends before its time."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from anchor_lightning.training.checkpoint_io import AtomicCheckpointIO, remove_unfinished
from anchor_lightning.training.signals import StopSignals


class Checkpoint(ModelCheckpoint):
    """`ModelCheckpoint` that keeps `last.ckpt` and the newest numbered file, and loses nothing when a run ends early.

    Files are replaced in one go (`AtomicCheckpointIO`). The last step is saved. SIGTERM and SIGINT save after the
    optimizer step that they interrupt and end the run (status 143 and 1); in a validation they save and end it at once,
    with several processes after it. An exception saves what the last complete step has left, so that a resumed run
    equals one that was never stopped; none is saved after a loss that was not finite.

    Args:
        every_n_train_steps: Optimizer steps between checkpoints.
        save_top_k: Numbered checkpoints to keep: the newest, or the best by `monitor` if that is given.
        monitor: Metric to keep the best of, such as `val/map_50`.
        mode: Whether the best is the `max` or the `min`.
        filename: Name of the numbered checkpoints.
        auto_insert_metric_name: Whether names in braces are repeated in the file's name.
        save_last: Whether `last.ckpt` is kept.
        save_on_exception: Whether a run that an exception ends is saved.
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
        save_on_exception: bool = True,
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
            save_on_exception=save_on_exception,
            **kwargs,
        )
        self._signals = StopSignals()
        self._buffers: dict[str, Tensor] = {}  # as they were before the optimizer step that goes on
        self._step = -1  # the optimizer step that goes on
        self._updating = False  # whether its update of the weights has begun
        self._unflushed = False  # whether a checkpoint was written since the loggers' files were

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes writing atomic."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user chose
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cleans up after the killed run that this one continues.

        Raises:
            ValueError: The processes of the run would continue different checkpoints.
        """
        path = trainer.ckpt_path
        if (first := trainer.strategy.broadcast(path)) != path:
            raise ValueError(
                f"--ckpt_path: process {trainer.global_rank} would continue {path}, process 0 {first}; give the path "
                "of a file that all processes read"
            )
        if path and trainer.is_global_zero:
            remove_unfinished(Path(path).parent)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to listen to signals."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step  # what a resumed run started from
        self._step, self._updating = -1, False
        self._signals.install(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keeps the running statistics of the norms, which a forward pass changes, in case the step is cut short."""
        if self._unflushed:
            for logger in trainer.loggers:
                logger.save()  # what was logged up to the checkpoint must not be lost with the steps after it
            self._unflushed = False
        if self.save_on_exception and trainer.global_step != self._step:
            with torch.no_grad():
                current = dict(pl_module.named_buffers())
                if self._buffers.keys() != current.keys():
                    self._buffers = {name: buffer.clone() for name, buffer in current.items()}
                elif self._buffers:
                    torch._foreach_copy_(list(self._buffers.values()), list(current.values()))
        self._step, self._updating = trainer.global_step, False

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Notes that the weights are about to change."""
        self._updating = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time to, and when a signal came, which all processes of the run hear of here."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._step:
            return  # in the middle of accumulated batches
        every = self._every_n_train_steps
        if self._defer_save_until_validation and every and trainer.global_step % every == 0:
            # Lightning waits for the monitored metric with the best checkpoint, and with the last one, too.
            saved = self._last_global_step_saved
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            self._last_global_step_saved = saved
        if self._signals.may_requeue and anywhere(trainer, self._signals.requeue):
            self._signals.call_requeue()
        if anywhere(trainer, self._signals.stop is not None):
            if not self._should_skip_saving_checkpoint(trainer):
                self._save(trainer)
            # What the trainer would do next: this step is not done again, so it is logged now or never.
            trainer._logger_connector.on_batch_end()
            trainer._logger_connector.update_train_step_metrics()
            self._end()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Saves at once when a signal came: a validation may last longer than the time that is left."""
        if self._signals.stop is not None and trainer.state.fn == "fit":
            if not self._should_skip_saving_checkpoint(trainer):
                self._save_alone(trainer)
            if trainer.world_size == 1:
                self._end()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last step if no regular checkpoint fell on it (Lightning does so only if none was ever saved)."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save(trainer)
        elif self._last_checkpoint_saved and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            # Written when the step was done, it does not know that the last validation was done, too.
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self._signals.remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves the last complete step to `last.ckpt`, without waiting for processes that may be gone."""
        self._signals.remove()
        complete = trainer.global_step != self._step
        if (
            not self._should_save_on_exception(trainer)
            or trainer.state.fn != "fit"
            or isinstance(exception, FloatingPointError)
            or (self._updating and not complete)  # the weights may be half changed
        ):
            return
        try:
            if self._save_alone(trainer):
                rank_zero_info(f"{type(exception).__name__}: the run was saved to {self.last_model_path}.")
        except Exception as error:  # the exception that ends the run is the one to hear of
            rank_zero_warn(f"The run could not be saved: {error}")

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._unflushed = True  # not now: Lightning logs the step's losses after this

    def _save(self, trainer: Trainer) -> None:
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    def _save_alone(self, trainer: Trainer) -> bool:
        """Writes `last.ckpt` on rank 0 without any collective call; False where the strategy shards the state."""
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            return False
        self.last_model_path = path = self.last_model_path or self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only)
        if trainer.global_step == self._step:  # a step cut short is done again
            state = checkpoint["state_dict"]
            state.update({name: buffer for name, buffer in self._buffers.items() if name in state})
        trainer.strategy.save_checkpoint(checkpoint, path)
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, path
        return True

    def _end(self) -> None:
        if self._signals.stop == signal.SIGINT:
            raise KeyboardInterrupt
        raise SIGTERMException


def anywhere(trainer: Trainer, flag: bool) -> bool:
    """Whether a flag is set on any of the run's processes; all of them have to ask."""
    # With one process the question need not go through the device, which would wait for it.
    return flag if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(flag, all=False))
