"""The two warm-up schedules (§3.2.1, §3.2.2) as pure functions of the optimizer step."""

from __future__ import annotations

from typing import Literal

from anchor_lightning.errors import UserError

TemperatureSchedule = Literal["linear", "geometric"]


def temperature_at(step: int, start: float, steps: int, schedule: TemperatureSchedule = "linear") -> float:
    """The temperature T of Eq. 10 at an optimizer step; 0 (hard assignment) from step `steps` on.

    Args:
        step: Optimizer steps taken so far.
        start: T at step 0.
        steps: Length of the warm-up; 0 turns it off.
        schedule: `linear` (the paper) falls in equal steps; `geometric` by a constant factor to 0.005 of the start.

    Raises:
        UserError: The schedule is unknown.
    """
    if schedule not in ("linear", "geometric"):
        raise UserError(f"unknown '{schedule}'; known are linear and geometric", argument="schedule")
    if step >= steps:
        return 0.0
    progress = step / steps
    return start * (1 - progress) if schedule == "linear" else float(start * 0.005**progress)


def clustering_weight_at(step: int, start: float, steps: int) -> float:
    """λ of Eq. 11 at an optimizer step: from `start` linearly to 0 at step `steps`; 0 from there on."""
    return start * (1 - step / steps) if step < steps else 0.0


def learning_rate_at(step: int, rates: dict[int, float]) -> float:
    """The learning rate at an optimizer step, of `rates`: first step of each stretch (one is 0) -> its rate."""
    return rates[max(first for first in rates if first <= step)]
