from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from anchor_lightning.anchors import critical_temperature
from anchor_lightning.callbacks import ClusteringDecay, SoftAssignment
from anchor_lightning.callbacks.schedules import StepSchedule
from anchor_lightning.errors import UserError
from tests.helpers.tiny_training import AtBatchStart, make_data, make_task, make_trainer

BOXES = torch.tensor([[10.0, 20.0], [40.0, 30.0], [90.0, 60.0]])


def values(callback: StepSchedule, *names: str, steps: int = 6, total: float = 6) -> list[tuple[Any, ...]]:
    """What the task has during each of its first steps, of `total`, and when the training has ended."""
    task: Any = SimpleNamespace(
        hparams={"distance": "iou"},
        data=SimpleNamespace(train_box_shapes=lambda: BOXES),
        detector=SimpleNamespace(supports_soft_assignment=True, is_soft_assignment_measured=True),
        shapes=SimpleNamespace(log_wh=torch.zeros(2, 2, requires_grad=True)),
    )
    trainer: Any = SimpleNamespace(global_step=0, estimated_stepping_batches=total)
    callback.on_fit_start(trainer, task)
    seen = []
    for step in range(steps):
        trainer.global_step = step
        callback.on_train_batch_start(trainer, task, None, 0)
        seen.append(tuple(getattr(task, name) for name in names))
    trainer.global_step = steps
    callback.on_train_end(trainer, task)
    return [*seen, tuple(getattr(task, name) for name in names)]


def test_the_first_step_has_the_start_step_number_steps_has_0_and_the_end_what_the_next_would() -> None:
    weights = [weight for (weight,) in values(ClusteringDecay(start=2.0, steps=4), "clustering_weight")]
    assert weights == [2, 1.5, 1, 0.5, 0, 0, 0]
    soft = values(SoftAssignment(start=2.0, steps=4, distance="l2"), "temperature", "distance")
    assert soft == [(2, "l2"), (1.5, "l2"), (1, "l2"), (0.5, "l2"), (0, "iou"), (0, "iou"), (0, "iou")]
    assert values(ClusteringDecay(start=1.0, steps=8), "clustering_weight", steps=2) == [(1,), (0.875,), (0.75,)]


@pytest.mark.parametrize("kind", [SoftAssignment, ClusteringDecay])
def test_steps_below_1_are_a_share_of_the_run(kind: Any) -> None:
    name = "temperature" if kind is SoftAssignment else "clustering_weight"
    assert values(kind(start=1.0, steps=0.25), name, total=16) == values(kind(start=1.0, steps=4), name)
    assert values(kind(start=1.0, steps=0.25), name, total=1)[:2] == [(1,), (0,)], "at least one step"
    with pytest.raises(UserError, match="without end"):
        values(kind(steps=0.25), name, total=float("inf"))
    with pytest.raises(UserError, match=r"1\.5"):
        kind(steps=1.5)


@pytest.mark.parametrize("kind", [SoftAssignment, ClusteringDecay])
def test_a_run_that_is_prolonged_keeps_its_warm_up(tmp_path: Path, kind: Any) -> None:
    """A share is of the steps that the run was first to have, unless another share is asked for."""
    name = "temperature" if kind is SoftAssignment else "clustering_weight"

    def fit(steps: float, total: int, ckpt_path: Path | None = None) -> list[float]:
        seen = AtBatchStart(lambda trainer, task, batch: getattr(task, name))
        trainer = make_trainer(tmp_path, callbacks=[kind(start=1.0, steps=steps), seen], max_steps=total)
        trainer.fit(make_task(), datamodule=make_data(), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return seen.seen

    assert fit(0.5, 4) == [1, 0.5, 0, 0]
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert fit(0.5, 12, tmp_path / "last.ckpt") == [0] * 8, "half of 12 would be 6 steps"
    assert fit(0.9, 20, tmp_path / "last.ckpt")[:7] == pytest.approx(
        [6 / 18, 5 / 18, 4 / 18, 3 / 18, 2 / 18, 1 / 18, 0]
    )


def test_a_checkpoint_from_before_the_first_step_does_not_end_the_warm_up(tmp_path: Path) -> None:
    """As LearningRateFinder writes one and takes it up again."""
    trainer = make_trainer(tmp_path, callbacks=[ClusteringDecay(steps=0.5)])
    trainer.strategy.connect(make_task())
    trainer.save_checkpoint(tmp_path / "before.ckpt")
    decay = ClusteringDecay(steps=0.5)
    decay.load_state_dict(torch.load(tmp_path / "before.ckpt")["callbacks"][decay.state_key])
    assert values(decay, "clustering_weight", total=4)[:3] == [(1,), (0.5,), (0,)]


def test_start_auto_is_the_critical_temperature_of_the_boxes() -> None:
    assert values(SoftAssignment(start="auto", steps=4), "temperature")[0] == (critical_temperature(BOXES),)


@pytest.mark.parametrize("option", ["start", "steps"])
@pytest.mark.parametrize("kind", [SoftAssignment, ClusteringDecay])
def test_options_must_not_be_negative(kind: Any, option: str) -> None:
    with pytest.raises(UserError, match=option):
        kind(**{option: -1})


def test_a_detector_without_soft_assignment() -> None:
    task = SimpleNamespace(detector=SimpleNamespace(supports_soft_assignment=False))
    SoftAssignment(steps=0).check(task)
    with pytest.raises(UserError, match=r"soft_assignment\.steps"):
        SoftAssignment(steps=5).check(task)
