"""The warm-ups' schedules: values of the task that are set at every step from `global_step` alone (§3.2)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from anchor_lightning.anchors import clustering_weight_at, critical_temperature, temperature_at
from anchor_lightning.anchors.assignment import Distance
from anchor_lightning.anchors.schedules import TemperatureSchedule
from anchor_lightning.errors import UserError


class StepSchedule(Callback, ABC):
    """Base class; a pure function of the step and of the warm-up's length, which is all that a checkpoint holds.

    Args:
        section: Name of the callback's options.
        start: The scheduled value at step 0.
        steps: Length of the warm-up: optimizer steps, or below 1 a share of those of the run. A run that goes on from
            a checkpoint, for longer perhaps, keeps the length that the share had there.

    Attributes:
        num_steps: Length of the warm-up in optimizer steps, of a share from `on_fit_start` on.
    """

    def __init__(self, section: str, start: float, steps: float) -> None:
        for name, value in (("start", start), ("steps", steps)):
            if value < 0:
                raise UserError(f"must be 0 or more, got {value}", f"{section}.{name}")
        if steps >= 1 and steps != int(steps):
            raise UserError(f"must be a whole number of steps, or a share below 1, got {steps}", f"{section}.steps")
        self.section, self.steps = section, steps
        self.num_steps = 0 if steps < 1 else int(steps)
        self._lengths: dict[float, int] = {}  # that shares have in the checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The length of the warm-up, if it is known yet."""
        return {"lengths": {self.steps: self.num_steps} if self.num_steps else {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back."""
        self._lengths = state_dict["lengths"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the steps that a share stands for; a `UserError` where the run has no end."""
        if 0 < self.steps < 1:
            total = trainer.estimated_stepping_batches
            if not 0 < total < math.inf:
                reason = f"{self.steps} is a share of a run without end; give max_steps, or a number of steps here"
                raise UserError(reason, f"{self.section}.steps")
            length = max(1, round(self.steps * total))  # of a trial of two steps, too
            # Else a run that is prolonged could fall back into the warm-up that it has left.
            self.num_steps = self._lengths.get(self.steps, length)

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
        steps: Optimizer steps until T is 0, the hard assignment; below 1 a share of the run's steps; 0 turns the
            warm-up off.
        schedule: `linear` (the paper), or `geometric`: a constant factor a step down to 0.005 of the start, then 0.
        distance: Distance of the assignment while T > 0: `l2` in log space, or `iou`; `model.distance` follows.

    Raises:
        UserError: start or steps is negative, or steps a fraction above 1.
    """

    def __init__(
        self,
        start: float | Literal["auto"] = 2.0,
        steps: int | float = 1500,
        schedule: TemperatureSchedule = "linear",
        distance: Distance = "l2",
    ) -> None:
        super().__init__("soft_assignment", 0.0 if start == "auto" else start, steps)
        self.start, self.schedule, self.distance = start, schedule, distance
        self._start_temperature = 0.0

    def check(self, task: Any) -> None:
        """Raises a `UserError` for a detector without soft assignment, unless the warm-up is off."""
        if self.steps and not task.detector.supports_soft_assignment:
            reason = f"{self.steps}, but {type(task.detector).__name__} has no soft assignment; set it to 0"
            raise UserError(reason, "soft_assignment.steps")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises what `check` does, and finds what a share and `auto` (of the training boxes alone) stand for."""
        super().on_fit_start(trainer, pl_module)
        self.check(pl_module)
        task: Any = pl_module
        is_soft = self.num_steps and self.start and task.shapes.log_wh.requires_grad
        if is_soft and not task.detector.is_soft_assignment_measured:
            rank_zero_warn(
                f"The first {self.num_steps} steps assign boxes to shapes softly, which no evidence supports for "
                f"{type(task.detector).__name__}; soft_assignment.steps 0 turns it off, as configs/detector do."
            )
        is_auto = self.start == "auto"
        self._start_temperature = critical_temperature(task.data.train_box_shapes()) if is_auto else float(self.start)

    def set_values(self, task: Any, step: int) -> None:
        """Sets T and the distance."""
        task.temperature = temperature_at(step, self._start_temperature, self.num_steps, self.schedule)
        task.distance = self.distance if task.temperature > 0 else task.hparams["distance"]


class ClusteringDecay(StepSchedule):
    """Schedule of the task's `clustering_weight` λ.

    Args:
        start: λ of Eq. 11 at step 0.
        steps: Optimizer steps until λ is 0; below 1 a share of the run's steps; 0 turns the term off.

    Raises:
        UserError: start or steps is negative, or steps a fraction above 1.
    """

    def __init__(self, start: float = 1.0, steps: int | float = 1500) -> None:
        super().__init__("clustering", start, steps)
        self.start = start

    def set_values(self, task: Any, step: int) -> None:
        """Sets λ."""
        task.clustering_weight = clustering_weight_at(step, self.start, self.num_steps)
