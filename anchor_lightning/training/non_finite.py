"""Ends a run whose loss is not finite, before the weights that it spoils are saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from anchor_lightning.errors import UserError
from anchor_lightning.structures import DetectionBatch


class NonFiniteLossError(UserError, FloatingPointError):
    """A loss, or weights, that are not finite."""


class NonFiniteLoss(Callback):
    """Raises an error at the first loss that is not finite, and before a checkpoint of broken weights is written.

    Losses (`terms` of `training_step`) are read when the trainer logs or saves, as reading makes the host wait.
    """

    def __init__(self) -> None:
        self._step = 0
        self._unread: list[tuple[int, Mapping[str, Tensor], Tensor]] = []  # step, terms, image ids
        self._last_loss = float("nan")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the losses of an earlier run."""
        self._unread, self._last_loss = [], float("nan")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes the step, which is counted by the time that the batch ends."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: DetectionBatch, batch_idx: int
    ) -> None:
        """Takes the loss of a batch, and shows the one that was read last in the progress bar."""
        self._unread.append((self._step, outputs["terms"], batch.image_ids))
        every = trainer.log_every_n_steps or 1  # type: ignore[attr-defined]  # set at run time
        if pl_module.device.type == "cpu" or self._step % every == 0:
            # Of accumulated batches Lightning has divided `outputs["loss"]` by their number.
            self._last_loss = float(sum(outputs["terms"].values()))
            self.read(trainer)
        # A bar that is given the tensor makes the host wait for the device at every step.
        pl_module.log("loss", self._last_loss, batch_size=len(batch), prog_bar=True, logger=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the last losses."""
        self.read(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reads the losses so far."""
        self.read(trainer)

    def read(self, trainer: Trainer) -> None:
        """Waits for the losses that were not read yet.

        Raises:
            NonFiniteLossError: The first that is not finite; those after it come of the weights that it has broken.
        """
        unread, self._unread = self._unread, []
        for step, terms, image_ids in unread:
            if all(term.isfinite() for term in terms.values()):
                continue
            values = ", ".join(f"{name} {float(term):.4g}" for name, term in terms.items())
            data = trainer.datamodule  # type: ignore[attr-defined]  # set at run time
            names = data.image_names("train", image_ids.tolist()) if data is not None else image_ids.tolist()
            raise NonFiniteLossError(
                f"The loss is not finite at step {step}: {values}. Lower learning_rate, or look at the images: "
                f"{', '.join(map(str, names))}. {_last_checkpoint(trainer)}"
            )


def check_weights_finite(state_dict: Mapping[str, Any], trainer: Trainer | None) -> None:
    """Raises a `NonFiniteLossError` for weights that are not finite."""
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, Tensor)}
    if broken := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise NonFiniteLossError(
            f"{len(broken)} weights ({broken[0]}, ...) are not finite; nothing was written. {_last_checkpoint(trainer)}"
        )


def _last_checkpoint(trainer: Trainer | None) -> str:
    callbacks = getattr(trainer, "checkpoint_callbacks", [])
    paths = [getattr(callback, name, "") for callback in callbacks for name in ("last_model_path", "best_model_path")]
    paths = [path for path in [*paths, getattr(trainer, "ckpt_path", None)] if path and Path(path).is_file()]
    if not paths:
        return "No checkpoint was written yet."
    return f"The last checkpoint, from before, is {max(paths, key=lambda path: Path(path).stat().st_mtime_ns)}."
