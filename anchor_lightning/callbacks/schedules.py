"""The warm-ups' schedules: values of the task that are set at every step from `global_step` alone (§3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from anchor_lightning.anchors import clustering_weight_at, critical_temperature, temperature_at
from anchor_lightning.anchors.assignment import Distance
from anchor_lightning.anchors.schedules import TemperatureSchedule
from anchor_lightning.errors import UserError


class StepSchedule(Callback, ABC):
    """Base class; a pure function of the step, so that no checkpoint need hold it."""

    def __init__(self, section: str, **options: float) -> None:
        for name, value in options.items():
            if value < 0:
                raise UserError(f"must be 0 or more, got {value}", f"{section}.{name}")

    @abstractmethod
    def set_values(self, task: Any, step: int) -> None:
        """Sets the task's values for the optimizer step that begins."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the values of this step."""
        self.set_values(pl_module, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves what the next step would have begun with."""
        self.set_values(pl_module, trainer.global_step)


class SoftAssignment(StepSchedule):
    """Schedule of the task's `temperature` T, and of the `distance` of its assignment.

    Args:
        start: T at step 0; `auto` for the critical temperature of the unaugmented training boxes.
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
        super().__init__("soft_assignment", start=0.0 if start == "auto" else start, steps=steps)
        self.start, self.steps, self.schedule, self.distance = start, steps, schedule, distance
        self._start_temperature = 0.0

    def check(self, task: Any) -> None:
        """Raises a `UserError` for a detector without soft assignment, unless the warm-up is off."""
        if self.steps and not task.detector.supports_soft_assignment:
            reason = f"{self.steps}, but {type(task.detector).__name__} has no soft assignment; set it to 0"
            raise UserError(reason, "soft_assignment.steps")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises what `check` does, and finds the temperature that `auto` stands for, from the training boxes alone."""
        self.check(pl_module)
        task: Any = pl_module
        is_auto = self.start == "auto"
        self._start_temperature = critical_temperature(task.data.train_box_shapes()) if is_auto else float(self.start)

    def set_values(self, task: Any, step: int) -> None:
        """Sets T and the distance."""
        task.temperature = temperature_at(step, self._start_temperature, self.steps, self.schedule)
        task.distance = self.distance if task.temperature > 0 else task.hparams["distance"]


class ClusteringDecay(StepSchedule):
    """Schedule of the task's `clustering_weight` λ.

    Args:
        start: λ of Eq. 11 at step 0.
        steps: Optimizer steps until λ is 0; 0 turns the term off.

    Raises:
        UserError: start or steps is negative.
    """

    def __init__(self, start: float = 1.0, steps: int = 1500) -> None:
        super().__init__("clustering", start=start, steps=steps)
        self.start, self.steps = start, steps

    def set_values(self, task: Any, step: int) -> None:
        """Sets λ."""
        task.clustering_weight = clustering_weight_at(step, self.start, self.steps)
