"""The private names of Lightning that are used still exist and mean what they meant."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

import anchor_lightning
from anchor_lightning.training import lightning_private
from tests.helpers.tiny_training import make_trainer


class Watch(Callback):
    """Notes after each training batch whether a validation is said to follow, and each batch of a validation."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        self.events.append(lightning_private.validation_follows(trainer))

    def on_validation_batch_start(self, *args: object) -> None:
        self.events.append("batch")


class Stop(Callback):
    """Saves a checkpoint in the second batch of the first validation, and ends the run."""

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, index: int) -> None:
        if index == 1:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "last.ckpt")
            raise KeyError("the run ends")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        lightning_private.mark_validation_due(checkpoint)


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 2, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
        {"val_check_interval": 0.5},
        {"limit_val_batches": 0},
    ],
)
def test_validation_follows(tmp_path: Path, options: dict[str, Any]) -> None:
    limits = {"max_steps": -1, "max_epochs": 3, "limit_train_batches": 3, "limit_val_batches": 1}
    make_trainer(tmp_path, callbacks=[watch := Watch()], **limits | options).fit(BoringModel())
    said = [event for event in watch.events if event != "batch"]
    assert len(said) == 9 and any(said) == (options.get("limit_val_batches") != 0)
    follows = [b == "batch" for a, b in zip(watch.events, [*watch.events[1:], None], strict=True) if a != "batch"]
    assert said == follows


def test_a_marked_validation_is_repeated_from_its_first_batch(tmp_path: Path) -> None:
    trainer = partial(make_trainer, tmp_path, limit_train_batches=4, limit_val_batches=3, val_check_interval=2)
    trainer(callbacks=[whole := Watch()]).fit(BoringModel())
    with pytest.raises(KeyError):
        trainer(callbacks=[Stop()]).fit(BoringModel())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    trainer(callbacks=[rest := Watch()]).fit(BoringModel(), ckpt_path=tmp_path / "last.ckpt")
    assert whole.events == [False, True, *["batch"] * 3, False, True, *["batch"] * 3]
    assert rest.events == whole.events[2:]


def test_cluster_environment_of_one_process(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, plugins=[environment := LightningEnvironment()])
    assert lightning_private.cluster_environment(trainer) is environment


# Of Lightning's objects and classes; what begins with an underscore and is our own has other names.
PRIVATE = {
    *("_accelerator_connector", "_active_loop", "_batches_that_stepped", "_callback_connector", "_data_fetcher"),
    *("_checkpoint_connector", "_data_connector", "_logger_connector", "_results", "_should_accumulate"),
    *("_should_check_val_fx", "_signal_connector", "_last_val_time", "_combined_loader", "_restarting", "_has_run"),
    *("_average_model", "_can_stop_early"),
}


def test_no_other_module_uses_privates_of_the_trainer() -> None:
    folder = Path(anchor_lightning.__file__).parent
    users = {
        path.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE
    }
    assert users == {"lightning_private.py"}
