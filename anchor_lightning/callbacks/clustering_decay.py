"""Fades the online clustering term out (§3.2.2)."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from anchor_lightning.anchors import clustering_weight_at


class ClusteringDecay(Callback):
    """Sets the task's `clustering_weight` at every step start, as a pure function of `global_step`.

    Args:
        start: λ of Eq. 11 at step 0.
        steps: Optimizer steps until λ is 0; 0 turns the term off.

    Raises:
        ValueError: start or steps is negative.
    """

    def __init__(self, start: float = 1.0, steps: int = 1500) -> None:
        if steps < 0 or start < 0:
            raise ValueError(f"clustering: start ({start}) and steps ({steps}) must be 0 or more")
        self.start, self.steps = start, steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets λ of this step."""
        self._set(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves what the next step would have begun with."""
        self._set(trainer, pl_module)

    def _set(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task: Any = pl_module
        weight = clustering_weight_at(trainer.global_step, self.start, self.steps)
        task.clustering_weight = weight
