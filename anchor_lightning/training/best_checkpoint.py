"""The checkpoint with the best validation of a run, beside the one that the run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from anchor_lightning.training.checkpoint_files import BEST_PREFIX, PROJECT_KEY, WITHIN_STEP, recorded_best
from anchor_lightning.training.lightning_private import is_within_step

MAIN_METRIC: Final = "val/map_50"


class ContinuedCheckpoint(ModelCheckpoint):
    """`ModelCheckpoint` whose record goes on in the folder of a resumed run."""

    _trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Chooses the folder; the trainer knows the checkpoint that is resumed only when states are loaded."""
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over which checkpoint was the best so far: a resumed run has another folder, and is the same run."""
        state = {name: value for name, value in state_dict.items() if name != "dirpath"}
        best, resumed = state["best_model_path"], self._trainer and self._trainer.ckpt_path
        if self.monitor is not None and best and resumed:
            found = recorded_best(state, Path(resumed))
            if found is None:
                rank_zero_warn(
                    f"The best checkpoint so far, {best}, is not there any more: the next validation is the best."
                )
                return
            path, score = str(found.absolute()), state["best_model_score"]
            state |= {"best_model_path": path, "best_k_models": {path: score}, "kth_best_model_path": path}
        super().load_state_dict(state)


class BestCheckpoint(ContinuedCheckpoint):
    """`ModelCheckpoint` after each validation that is better than those before, with the weights that it measured.

    One file, `best_val_map_50.ckpt` for `val/map_50`, is replaced in one go. It holds all that a training goes on from,
    unless the validation came between the accumulated batches of a step: then it can be measured only.

    Args:
        monitor: Metric of the validation; null keeps no best checkpoint.
        mode: Whether the best value is the `max` or the `min`.
        dirpath: Folder; that of the run's other checkpoints if not given.
    """

    def __init__(
        self, monitor: str | None = MAIN_METRIC, mode: Literal["max", "min"] = "max", dirpath: str | None = None
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=BEST_PREFIX + (monitor or "").replace("/", "_"),
            monitor=monitor,
            mode=mode,
            save_top_k=1 if monitor else 0,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,  # else the metric may be of an earlier validation
        )
        self._saving = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the validation that has just been done if it is the best so far; a metric that is missing is said."""
        is_counted = trainer.state.fn == "fit" and not trainer.sanity_checking
        if is_counted and self.monitor is not None and self.monitor not in trainer.callback_metrics:
            known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            rank_zero_warn(
                f"best_checkpoint.monitor: {self.monitor} is not among what the validation measures: "
                f"{', '.join(known)}. No best checkpoint is kept."
            )
            return
        super().on_validation_end(trainer, pl_module)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._saving = True
        try:
            super()._save_checkpoint(trainer, filepath)
        finally:
            self._saving = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Marks a checkpoint of this callback that no training goes on from."""
        if self._saving and is_within_step(trainer):
            checkpoint.setdefault(PROJECT_KEY, {})[WITHIN_STEP] = True
