"""Which checkpoints are written, and when; that a run goes on from them is in `test_resume.py`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anchor_lightning.errors import UserError
from anchor_lightning.training.best_checkpoint import BestCheckpoint
from anchor_lightning.training.checkpoint_files import find_checkpoint
from anchor_lightning.training.checkpoints import RunCheckpoint
from anchor_lightning.training.trainer_checks import check_whole_step
from tests.helpers.end_at import EndAt
from tests.helpers.tiny_training import make_trainer

BEST = "best_val_score"
SCORES = {2: 0.1, 4: 0.5, 6: 0.3, 7: 0.2}  # of the validation after so many steps


class Scored(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", SCORES.get(self.global_step, 0.0))


def fit(
    folder: Path,
    end: EndAt | None = None,
    val_check_interval: int = 2,
    ckpt_path: Path | None = None,
    monitor: str | None = "val/score",
    limit_val_batches: int = 1,
    max_steps: int = 7,
    **options: Any,
) -> BestCheckpoint:
    best = BestCheckpoint(monitor, dirpath=str(folder))
    callbacks = [best, RunCheckpoint(dirpath=folder, **options), *([] if end is None else [end])]
    limits = {"max_steps": max_steps, "val_check_interval": val_check_interval, "limit_val_batches": limit_val_batches}
    make_trainer(folder, callbacks=callbacks, enable_checkpointing=True, **limits).fit(Scored(), ckpt_path=ckpt_path)
    return best


def steps(folder: Path) -> dict[str, int]:
    """The optimizer step of each checkpoint."""
    return {path.stem: load(path)["global_step"] for path in folder.glob("*")}


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
    assert steps(tmp_path) == expected | {BEST: 4}


def test_a_step_is_written_once_under_both_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step twice: its content knows of no `last.ckpt` yet, which must be replaced and not stand beside."""
    written: list[int] = []
    save = torch.save
    monkeypatch.setattr(
        torch, "save", lambda content, file: (written.append(content["global_step"]), save(content, file))
    )
    fit(tmp_path, every_n_train_steps=3, monitor=None)
    assert written == [3, 3, 6, 7] and steps(tmp_path) == {"last": 7, "step7": 7}
    numbered, last = tmp_path / "step7.ckpt", tmp_path / "last.ckpt"
    assert numbered.samefile(last)
    (state,) = (state for key, state in load(last)["callbacks"].items() if key.startswith("RunCheckpoint"))
    assert (state["best_model_path"], state["last_model_path"]) == (str(numbered), str(last))
    # The run goes on in the same folder: the other name keeps its content, and nothing is left over.
    numbered.rename(tmp_path / "kept.ckpt")
    fit(tmp_path, ckpt_path=last, max_steps=8, every_n_train_steps=3, monitor=None)
    assert steps(tmp_path) == {"last": 8, "step8": 8, "kept": 7} and written[4:] == [8]
    last.unlink()
    assert load(tmp_path / "step8.ckpt")["global_step"] == 8


def test_where_there_are_no_links_both_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse_link)
    fit(tmp_path, every_n_train_steps=3)
    assert steps(tmp_path) == {"last": 7, "step7": 7, BEST: 4}
    assert not (tmp_path / "step7.ckpt").samefile(tmp_path / "last.ckpt")


def refuse_link(*_: Any, **__: Any) -> None:
    raise PermissionError("no links here")


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def test_the_best_checkpoint_is_that_of_its_own_validation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Validations after 2, 4, 6 and 7 steps score 0.1, 0.5, 0.3 and 0.2."""
    caplog.set_level("INFO")
    checkpoint = fit(tmp_path / "checkpoints", every_n_train_steps=3)
    assert float(checkpoint.best_model_score) == pytest.approx(0.5)
    best = tmp_path / "checkpoints" / f"{BEST}.ckpt"
    assert find_checkpoint("best", tmp_path) == best
    assert f"best: {best}, val/score 0.5000 after step 4" in caplog.text
    spoil(best)
    with pytest.raises(UserError, match=r"ckpt_path: best: .*best_val_score.ckpt is damaged .*; give last"):
        find_checkpoint("best", tmp_path)


def test_the_best_checkpoint_within_accumulated_batches(tmp_path: Path) -> None:
    """A validation after two batches of which three make a step has the weights of no further step."""
    best = BestCheckpoint("val/score", dirpath=str(tmp_path))
    limits = {"max_steps": 2, "val_check_interval": 5, "limit_val_batches": 1, "accumulate_grad_batches": 3}
    callbacks = [best, RunCheckpoint(dirpath=tmp_path, every_n_train_steps=2)]

    class Late(BoringModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/score", float(self.global_step))

    make_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, **limits).fit(Late())
    assert steps(tmp_path)[BEST] == 1
    # The gradients of the two batches are in no file.
    best, last = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in (BEST, "last"))
    check_whole_step(last)
    with pytest.raises(UserError, match=r"ckpt_path: .* between the batches of one optimizer step.*; give last"):
        check_whole_step(best)


def test_the_last_checkpoint_does_not_wait_for_a_validation(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fit(tmp_path, EndAt("error", 5), val_check_interval=7, every_n_train_steps=3)
    assert steps(tmp_path) == {"last": 3, "step3": 3}


@pytest.mark.parametrize("save_last", [True, "link"])
def test_a_signal_in_a_validation_saves_the_step_before(tmp_path: Path, save_last: Any) -> None:
    with pytest.raises(SIGTERMException):
        fit(tmp_path, EndAt("SIGTERM", 4, "validation"), every_n_train_steps=3, monitor=None, save_last=save_last)
    assert steps(tmp_path) == {"last": 4, **({"step3": 3} if save_last is True else {"step4": 4})}


def test_a_run_goes_on_from_its_last_checkpoint_not_from_a_newer_best_one(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fit(tmp_path, EndAt("error", 5), every_n_train_steps=3)
    assert steps(tmp_path) == {"last": 3, "step3": 3, BEST: 4}
    assert find_checkpoint("last", tmp_path) == tmp_path / "last.ckpt"
    spoil(tmp_path / "last.ckpt")
    with pytest.warns(match="last.ckpt is damaged"):
        assert find_checkpoint("last", tmp_path) == tmp_path / "step3.ckpt"
    spoil(tmp_path / "step3.ckpt")
    with pytest.warns(match="last.ckpt is damaged|step3.ckpt is damaged"):
        assert find_checkpoint("last", tmp_path) == tmp_path / f"{BEST}.ckpt"


def test_the_best_checkpoint_of_a_resumed_run_may_be_the_one_before(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    options = {"every_n_train_steps": 3}
    folders = [tmp_path / name / "checkpoints" for name in ("a", "b")]
    with pytest.raises(KeyError):
        fit(folders[0], EndAt("error", 6), **options)
    best = folders[0] / f"{BEST}.ckpt"
    assert find_checkpoint("best", tmp_path) == best
    resumed = fit(folders[1], ckpt_path=best, **options)
    assert steps(folders[1]) == {"last": 7, "step7": 7} and float(resumed.best_model_score) == pytest.approx(0.5)
    assert find_checkpoint("best", tmp_path) == best
    assert not [warning for warning in recwarn if "dirpath" in str(warning.message)]
    # Moved, the run has its best validation beside the checkpoint; another run in its former place is not taken for it.
    (tmp_path / "a").rename(tmp_path / "moved")
    fit(folders[0], max_steps=2)
    there = tmp_path / "moved" / "checkpoints" / best.name
    moved = fit(tmp_path / "c", ckpt_path=there, **options)
    assert float(moved.best_model_score) == pytest.approx(0.5) and moved.best_model_path == str(there)
    assert find_checkpoint("best", tmp_path / "moved") == there
    with pytest.raises(UserError, match=r"ckpt_path: best: .*best_val_score.ckpt, .* is not there any more"):
        find_checkpoint("best", tmp_path / "b")
    with pytest.warns(match=r"best_val_score.ckpt, is not there any more: the next validation is the best"):
        again = fit(tmp_path / "d", ckpt_path=folders[1] / "last.ckpt", max_steps=9, **options)
    assert float(again.best_model_score) == pytest.approx(0.0)


def test_the_best_checkpoint_is_found_from_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        fit(Path("run/checkpoints"), max_steps=7 if name == "here" else 2)
    folder = tmp_path / "here" / "run" / "checkpoints"
    assert find_checkpoint("best", tmp_path / "here") == folder / f"{BEST}.ckpt"
    resumed = fit(Path("resumed"), ckpt_path=Path("../here/run/checkpoints/last.ckpt"), max_steps=8)
    assert Path(resumed.best_model_path).resolve() == folder / f"{BEST}.ckpt"
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("best", "elsewhere/resumed").resolve() == folder / f"{BEST}.ckpt"


def test_the_best_checkpoint_of_another_run_in_the_same_folder_stays(tmp_path: Path) -> None:
    fit(tmp_path)
    fit(tmp_path)
    assert steps(tmp_path).keys() == {"last", "last-v1", "step7", "step7-v1", BEST, f"{BEST}-v1"}


@pytest.mark.parametrize("off", [{"monitor": None}, {"limit_val_batches": 0}])
def test_no_best_checkpoint(off: dict[str, Any], tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fit(tmp_path / "checkpoints", **off)
    assert steps(tmp_path / "checkpoints") == {"last": 7, "step7": 7}
    assert not [warning for warning in recwarn if "ModelCheckpoint" in str(warning.message)]
    with pytest.raises(
        UserError, match=r"best: the newest run, .* has none: .*best_checkpoint.monitor is null; give last"
    ):
        find_checkpoint("best", tmp_path)


def test_a_checkpoint_of_weights_alone_does_not_name_the_best(tmp_path: Path) -> None:
    fit(tmp_path / "checkpoints", save_weights_only=True)
    assert steps(tmp_path / "checkpoints").keys() == {"last", "step7", BEST}
    with pytest.raises(UserError, match=r"last.ckpt holds weights alone .* give the path of best_\*.ckpt"):
        find_checkpoint("best", tmp_path)


def test_a_metric_that_there_is_not(tmp_path: Path) -> None:
    """Which is noticed when the first validation is done: the training is not lost."""
    with pytest.warns(match=r"monitor: val/sore is not among what the validation measures: val/score. No best"):
        fit(tmp_path, monitor="val/sore")
    assert steps(tmp_path) == {"last": 7, "step7": 7}


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
