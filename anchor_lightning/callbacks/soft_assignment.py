"""The temperature of the assignment, which falls to 0 (§3.2.1)."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer

from anchor_lightning.anchors import critical_temperature, temperature_at
from anchor_lightning.anchors.assignment import Distance
from anchor_lightning.anchors.schedules import TemperatureSchedule
from anchor_lightning.callbacks.step_schedule import StepSchedule
from anchor_lightning.errors import UserError


class SoftAssignment(StepSchedule):
    """Schedule of the task's `temperature` T, and of the `distance` of its assignment.

    Args:
        start: T at step 0; `auto` for the critical temperature of the unaugmented training boxes, below which shapes
            part. (That of the augmented boxes is higher where boxes are alike, and gave worse detectors.)
        steps: Optimizer steps until T is 0, the hard assignment; 0 turns the warm-up off.
        schedule: `linear` (the paper), or `geometric`: a constant factor a step down to 0.005 of the start, then 0.
        distance: Distance of the assignment while T > 0: `l2` in log space, or `iou`; `model.distance` follows.

    Raises:
        UserError: start or steps is negative.
    """

    def __init__(
        self,
        start: float | Literal["auto"] = 2.0,
        steps: int = 1500,
        schedule: TemperatureSchedule = "linear",
        distance: Distance = "l2",
    ) -> None:
        for argument, value in (("start", start), ("steps", steps)):
            if value != "auto" and value < 0:
                raise UserError(f"must be 0 or more, got {value}", f"soft_assignment.{argument}")
        self.start, self.steps, self.schedule, self.distance = start, steps, schedule, distance
        self._start_temperature = 0.0

    def check(self, task: Any) -> None:
        """Raises an error for a detector that has no soft assignment, rather than to anneal what nothing reads.

        Raises:
            UserError: It has none, and the warm-up is not off.
        """
        if self.steps and not task.detector.supports_soft_assignment:
            raise UserError(
                f"{self.steps}, but {type(task.detector).__name__} has no soft assignment; set it to 0",
                argument="soft_assignment.steps",
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises what `check` does."""
        self.check(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the temperature that `auto` stands for, from the training boxes alone."""
        task: Any = pl_module
        if self.start == "auto":
            self._start_temperature = critical_temperature(task.data.train_box_shapes())
        else:
            self._start_temperature = self.start

    def set_values(self, task: Any, step: int) -> None:
        """Sets T and the distance."""
        task.temperature = temperature_at(step, self._start_temperature, self.steps, self.schedule)
        task.distance = self.distance if task.temperature > 0 else task.hparams["distance"]
