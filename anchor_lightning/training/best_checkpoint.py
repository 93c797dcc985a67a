"""The checkpoint with the best validation of a run, beside the one that the run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import BEST_PREFIX

MAIN_METRIC: Final = "val/map_50"


class ContinuedCheckpoint(ModelCheckpoint):
    """`ModelCheckpoint` whose record goes on in the folder of a resumed run."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over which checkpoint was the best so far: a resumed run has another folder, and is the same run."""
        best = state_dict["best_model_path"]
        if self.monitor is None or not best or Path(best).is_file():
            super().load_state_dict({name: value for name, value in state_dict.items() if name != "dirpath"})
        else:
            rank_zero_warn(
                f"The best checkpoint so far, {best}, is not there any more: the next validation is the best."
            )


class BestCheckpoint(ContinuedCheckpoint):
    """`ModelCheckpoint` after each validation that is better than those before, with the weights that it measured.

    One file, `best_val_map_50.ckpt` for `val/map_50`, is replaced in one go. It holds all that a training goes on from.

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

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the validation that has just been done if it is the best so far.

        Raises:
            UserError: The metric was not measured.
        """
        is_counted = trainer.state.fn == "fit" and not trainer.sanity_checking
        if is_counted and self.monitor is not None and self.monitor not in trainer.callback_metrics:
            known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise UserError(
                f"{self.monitor} is not among what the validation measures: {', '.join(known)}", argument="monitor"
            )
        super().on_validation_end(trainer, pl_module)
