"""The weight of the online clustering term, which fades out (§3.2.2)."""

from __future__ import annotations

from typing import Any

from anchor_lightning.anchors import clustering_weight_at
from anchor_lightning.callbacks.step_schedule import StepSchedule
from anchor_lightning.errors import UserError


class ClusteringDecay(StepSchedule):
    """Schedule of the task's `clustering_weight` λ.

    Args:
        start: λ of Eq. 11 at step 0.
        steps: Optimizer steps until λ is 0; 0 turns the term off.

    Raises:
        UserError: start or steps is negative.
    """

    def __init__(self, start: float = 1.0, steps: int = 1500) -> None:
        for argument, value in (("start", start), ("steps", steps)):
            if value < 0:
                raise UserError(f"must be 0 or more, got {value}", f"clustering.{argument}")
        self.start, self.steps = start, steps

    def set_values(self, task: Any, step: int) -> None:
        """Sets λ."""
        task.clustering_weight = clustering_weight_at(step, self.start, self.steps)
