"""Fades the online clustering term out (§3.2.2)."""

from __future__ import annotations

from typing import Any

from anchor_lightning.anchors import clustering_weight_at
from anchor_lightning.callbacks.step_schedule import StepSchedule


class ClusteringDecay(StepSchedule):
    """Sets the task's `clustering_weight` λ.

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

    def set_values(self, task: Any, step: int) -> None:
        """Sets λ."""
        task.clustering_weight = clustering_weight_at(step, self.start, self.steps)
