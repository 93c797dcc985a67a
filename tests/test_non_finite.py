"""Losses and weights that are not finite."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from anchor_lightning import DetectionTask
from anchor_lightning.callbacks import BestCheckpoint, RunCheckpoint
from anchor_lightning.structures import DetectionBatch
from anchor_lightning.training.non_finite import NonFiniteLoss, NonFiniteLossError
from tests.helpers.tiny_training import AtBatchStart, make_data, make_task, make_trainer


def assert_finite(path: Path) -> int:
    """The step of a checkpoint, all weights of which are finite."""
    saved = torch.load(path, weights_only=True)
    assert all(value.isfinite().all() for value in saved["state_dict"].values() if value.is_floating_point())
    return int(saved["global_step"])


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path: Path) -> None:
    def poison(trainer: Trainer, task: DetectionTask, batch: DetectionBatch) -> None:
        if trainer.global_step == 3:
            batch.images.fill_(float("nan"))

    checkpoint = RunCheckpoint(every_n_train_steps=2, dirpath=str(tmp_path))
    callbacks = [AtBatchStart(poison), BestCheckpoint(dirpath=str(tmp_path)), checkpoint]  # in the order of `fit`
    trainer = make_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(FloatingPointError, match=r"step 3: loss_xy nan.*images: train-0.*last checkpoint.*last\.ckpt"):
        trainer.fit(make_task(), datamodule=make_data())
    assert assert_finite(tmp_path / "last.ckpt") == 2
    with pytest.raises(FloatingPointError, match="nothing was written"):
        trainer.save_checkpoint(tmp_path / "spoilt.ckpt")
    assert not (tmp_path / "spoilt.ckpt").exists()


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """A step with a finite loss can still break them; the next loss would tell, but a checkpoint may come first."""
    checkpoint = RunCheckpoint(every_n_train_steps=1, dirpath=str(tmp_path))
    trainer = make_trainer(tmp_path, callbacks=[checkpoint], enable_checkpointing=True)
    with pytest.raises(FloatingPointError, match="not finite; nothing was written"):
        trainer.fit(make_task(learning_rate={0: 1e-3, 2: 1e37}), datamodule=make_data())
    assert_finite(tmp_path / "last.ckpt")


def test_the_progress_bar_shows_the_loss_that_is_logged(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, accumulate_grad_batches=2, max_steps=1)
    trainer.fit(make_task(), datamodule=make_data())
    assert trainer.progress_bar_metrics["loss"] == pytest.approx(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize("every", [1, 4])
def test_the_first_loss_that_is_not_finite_is_reported(every: int) -> None:
    """Read at every step or at every fourth: step and images are those of the first one of this fit."""
    guard = NonFiniteLoss()
    data = SimpleNamespace(image_names=lambda split, ids: [f"image-{i}" for i in ids])
    trainer: Any = SimpleNamespace(global_step=0, log_every_n_steps=every, datamodule=data, checkpoint_callbacks=[])
    module: Any = SimpleNamespace(device=torch.device("meta"), log=lambda *args, **kwargs: None)
    guard._unread = [(0, {"loss_xy": torch.tensor(float("nan"))}, torch.tensor([1]))]  # of a fit before
    guard.on_fit_start(trainer, module)
    with pytest.raises(NonFiniteLossError, match=r"step 3: loss_xy nan.*image-3\."):
        for step in range(9):
            loss = torch.tensor(1.0 if step < 3 else float("nan"))
            batch: Any = DetectionBatch(*[torch.full((1,), step)] * 7)
            trainer.global_step = step
            guard.on_train_batch_start(trainer, module, batch, 0)
            trainer.global_step = step + 1  # the optimizer has stepped
            guard.on_train_batch_end(trainer, module, {"loss": loss, "terms": {"loss_xy": loss}}, batch, 0)
    assert step == (3 if every == 1 else 4), "read at multiples of every"
