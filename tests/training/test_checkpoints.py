"""Which checkpoints are written, and when; that a run goes on from them is in `test_resume.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import find_checkpoint
from anchor_lightning.training.checkpoints import RunCheckpoint
from tests.helpers.end_at import EndAt
from tests.helpers.tiny_training import make_trainer

SCORES = {2: 0.1, 4: 0.5, 6: 0.3, 7: 0.2}  # of the validation after so many steps


class Scored(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", SCORES[self.global_step])


def fit(
    folder: Path,
    end: EndAt | None = None,
    val_check_interval: int = 2,
    ckpt_path: Path | None = None,
    **options: Any,
) -> RunCheckpoint:
    checkpoint = RunCheckpoint(dirpath=folder, **options)
    callbacks = [checkpoint] if end is None else [checkpoint, end]
    limits = {"max_steps": 7, "val_check_interval": val_check_interval, "limit_val_batches": 1}
    make_trainer(folder, callbacks=callbacks, enable_checkpointing=True, **limits).fit(Scored(), ckpt_path=ckpt_path)
    return checkpoint


def steps(folder: Path) -> dict[str, int]:
    """The optimizer step of each checkpoint."""
    return {path.stem: torch.load(path, weights_only=True)["global_step"] for path in folder.glob("*")}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every_n_train_steps": 3}, {"last": 7, "step7": 7}),
        ({"every_n_train_steps": 3, "save_top_k": -1}, {"last": 7, "step3": 3, "step6": 6, "step7": 7}),
        ({"every_n_train_steps": 100, "save_top_k": 0}, {"last": 7}),
    ],
)
def test_regular_checkpoints_and_the_last_step(
    tmp_path: Path, options: dict[str, Any], expected: dict[str, int]
) -> None:
    fit(tmp_path, **options)
    assert steps(tmp_path) == expected


def test_the_best_checkpoint_is_that_of_its_own_validation(tmp_path: Path) -> None:
    checkpoint = fit(tmp_path, every_n_train_steps=3, monitor="val/score")
    assert steps(tmp_path) == {"last": 7, "step4": 4}
    assert float(checkpoint.best_model_score) == pytest.approx(0.5)


def test_with_a_monitored_metric_the_last_checkpoint_does_not_wait_for_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fit(tmp_path, EndAt("error", 5), val_check_interval=7, every_n_train_steps=3, monitor="val/score")
    assert steps(tmp_path) == {"last": 3}


def test_the_best_checkpoint_of_a_resumed_run_may_be_the_one_before(tmp_path: Path) -> None:
    """Validations after 2, 4, 6 and 7 steps score 0.1, 0.5, 0.3 and 0.2."""
    options = {"every_n_train_steps": 3, "monitor": "val/score"}
    folders = [tmp_path / name / "checkpoints" for name in ("a", "b")]
    with pytest.raises(KeyError):
        fit(folders[0], EndAt("error", 6), **options)
    best = folders[0] / "step4.ckpt"
    assert find_checkpoint("best", tmp_path) == best
    resumed = fit(folders[1], ckpt_path=best, **options)
    assert steps(folders[1]) == {"last": 7} and float(resumed.best_model_score) == pytest.approx(0.5)
    assert find_checkpoint("best", tmp_path) == best
    (tmp_path / "a").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"ckpt_path: best: .*step4.ckpt, .* is not there any more"):
        find_checkpoint("best", tmp_path / "b")


def test_there_is_no_best_checkpoint_without_a_monitored_metric(tmp_path: Path) -> None:
    fit(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"monitored no metric; train with --checkpoint.monitor val/map_50"):
        find_checkpoint("best", tmp_path)
