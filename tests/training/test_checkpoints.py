"""Which checkpoints are written, and when; that a run goes on from them is in `test_resume.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from anchor_lightning.training.checkpoints import Checkpoint

SCORES = {2: 0.1, 4: 0.5, 6: 0.3}  # of the validation after so many steps


class Scored(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", SCORES[self.global_step])


def fit(folder: Path, **options: Any) -> Checkpoint:
    checkpoint = Checkpoint(dirpath=folder, **options)
    limits: dict[str, Any] = {
        "max_steps": 7,
        "val_check_interval": 2,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
    }
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(accelerator="cpu", callbacks=[checkpoint], **limits, **off).fit(Scored())
    return checkpoint


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"every_n_train_steps": 3}, {"last.ckpt", "step7.ckpt"}),
        ({"every_n_train_steps": 3, "save_top_k": -1}, {"last.ckpt", "step3.ckpt", "step6.ckpt", "step7.ckpt"}),
        ({"every_n_train_steps": 100, "save_top_k": 0}, {"last.ckpt"}),
    ],
)
def test_regular_checkpoints_and_the_last_step(tmp_path: Path, options: dict[str, Any], names: set[str]) -> None:
    fit(tmp_path, **options)
    assert {path.name for path in tmp_path.iterdir()} == names
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 7


def test_the_best_checkpoint_is_that_of_its_own_validation(tmp_path: Path) -> None:
    checkpoint = fit(tmp_path, every_n_train_steps=3, monitor="val/score")
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "step4.ckpt"}
    assert float(checkpoint.best_model_score) == pytest.approx(0.5)
    assert torch.load(tmp_path / "step4.ckpt", weights_only=True)["global_step"] == 4
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 7


def test_nothing_is_saved_within_a_step() -> None:
    with pytest.raises(TypeError, match="save_on_exception"):
        Checkpoint(save_on_exception=True)
