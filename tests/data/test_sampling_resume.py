"""A stopped and resumed run sees, validates and logs what an uninterrupted one does, in Lightning's real loop."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from anchor_lightning.structures import DetectionBatch
from anchor_lightning.training.checkpoints import RunCheckpoint
from tests.helpers.tiny_data import MemoryModule

Event = tuple[Any, ...]
STOP = 0  # in place of a signal's number: the run is to end, as a Timer asks


class Log(DummyLogger):
    """Keeps what is logged: (kind, optimizer steps, epoch, value)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Event] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows += [(key, step, metrics["epoch"], value) for key, value in metrics.items() if key != "epoch"]


class Recorder(LightningModule):
    """Notes, batch by batch, the step and the images; stopped when `stop_at` batches of train or val were begun."""

    def __init__(self, place: str = "", stop_at: int | None = None, number: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[Event] = []
        self.place, self.stop_at, self.number = place, stop_at, number

    def note(self, place: str, batch: DetectionBatch) -> None:
        self.seen.append((place, self.global_step, self.current_epoch, *batch.image_ids.tolist()))
        if place == self.place and sum(event[0] == place for event in self.seen) == self.stop_at:
            if self.number is None:
                raise KeyError("the run fails")
            if self.number == STOP:
                self.trainer.should_stop = True
            else:
                signal.raise_signal(self.number)

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        self.note("train", batch)
        loss = (self.weight - batch.images.mean()).square().sum()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        self.note("val", batch)
        self.log("val_loss", (self.weight - batch.images.mean()).square().sum(), batch_size=len(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def last_of(folder: Path) -> dict[str, Any]:
    file = folder / "last.ckpt"
    content: dict[str, Any] = torch.load(file, weights_only=True) if file.exists() else {"global_step": 0}
    return content


def run(folder: Path, module: Recorder, log: Log, every: int = 2, **options: Any) -> None:
    """Trains from the folder's checkpoint to the end, or to where the module stops it."""
    off = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "use_distributed_sampler"), False)
    options = {"max_steps": 11, "accelerator": "cpu", "log_every_n_steps": 1, "num_sanity_val_steps": 0, **options}
    checkpoint = RunCheckpoint(every, dirpath=folder, enable_version_counter=False)
    data = MemoryModule(batch_size=4, image_size=[32, 64], num_workers=0, seed=3)
    last = folder / "last.ckpt"
    resumed = {"ckpt_path": str(last), "weights_only": True} if last.exists() else {}
    Trainer(callbacks=[checkpoint], logger=log, **off, **options).fit(module, data, **resumed)


def from_step(step: int, events: list[Event]) -> list[Event]:
    """Those of an optimizer step and later; validations of that step may have been done before."""
    return [event for event in events if event[1] > step or (event[0] == "train" and event[1] == step)]


# 20 images, batches of 4: five batches an epoch, and two validation batches.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"check_val_every_n_epoch": 10},
    "every epoch": {},
    "limit": {"limit_train_batches": 3},
    "share": {"limit_train_batches": 0.6, "val_check_interval": 2, "check_val_every_n_epoch": None},
    "overfit": {"overfit_batches": 2},
    "overfit a share": {"overfit_batches": 0.6, "accumulate_grad_batches": 2},
    "accumulate 2": {"accumulate_grad_batches": 2},
    "accumulate 3": {"accumulate_grad_batches": 3, "val_check_interval": 2, "check_val_every_n_epoch": None},
    "every batch": {"accumulate_grad_batches": 2, "val_check_interval": 1, "check_val_every_n_epoch": None},
    "epochs": {"max_steps": -1, "max_epochs": 3, "check_val_every_n_epoch": 2, "every": 5},
    "epochs, validated": {"max_steps": -1, "max_epochs": 3, "every": 1},
    "epochs, accumulate": {"max_steps": -1, "max_epochs": 4, "accumulate_grad_batches": 2, "every": 1}
    | {"check_val_every_n_epoch": 3},
}
# Place, number of the batch, and what comes: None is an exception. A batch of a validation may be the second of two.
STOPS = [("train", 6, None), ("train", 8, signal.SIGTERM), ("val", 3, None), ("val", 4, signal.SIGTERM)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_resumed_run_repeats_nothing_and_skips_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    """Stopped anywhere, and again after that: the same images, validations, logged values, weights and counters."""
    module, expected = Recorder(), Log()
    run(tmp_path / "whole", module, expected, **options)
    whole = last_of(tmp_path / "whole")
    for place, at, number in STOPS:
        folder, log = tmp_path / f"{place}_{at}", Log()  # of all attempts together
        for stop_at in (at, 5, None):
            stopped, first = Recorder(place, stop_at, number), last_of(folder)["global_step"]
            try:
                run(folder, stopped, log, **options)
                break
            except (KeyError, SIGTERMException):
                pass
        assert from_step(first, stopped.seen) == from_step(first, module.seen)
        assert set(log.rows) == set(expected.rows)
        end = last_of(folder)
        for name in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers"):
            assert end[name] == whole[name], (place, at, number, name)


@pytest.mark.parametrize("name", ["plain", "accumulate 2", "share"])
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_finished_run_goes_on_to_more_steps(tmp_path: Path, name: str) -> None:
    module, expected = Recorder(), Log()
    run(tmp_path / "whole", module, expected, **OPTIONS[name])
    for steps in (5, 6):
        rest, log = Recorder(), Log()
        run(tmp_path / str(steps), Recorder(), log, **OPTIONS[name], max_steps=steps)
        run(tmp_path / str(steps), rest, log, **OPTIONS[name])
        assert from_step(steps, rest.seen) == from_step(steps, module.seen)
        assert set(log.rows) == set(expected.rows)
        assert last_of(tmp_path / str(steps))["state_dict"] == last_of(tmp_path / "whole")["state_dict"]


@pytest.mark.parametrize(
    "name", ["plain", "every epoch", "accumulate 3", "every batch", "epochs", "epochs, accumulate"]
)
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_run_that_a_callback_stops_goes_on(tmp_path: Path, name: str) -> None:
    """Within accumulated batches the stop waits for their step; Lightning validates before it ends the run."""
    module, expected = Recorder(), Log()
    run(tmp_path / "whole", module, expected, **OPTIONS[name])
    whole = last_of(tmp_path / "whole")
    for place, at in (("train", 4), ("train", 6), ("val", 1)):
        folder = tmp_path / f"{place}_{at}"
        run(folder, stopped := Recorder(place, at, STOP), Log(), **OPTIONS[name])
        first = last_of(folder)["global_step"]
        assert 0 < first < whole["global_step"] or place == "val"
        run(folder, rest := Recorder(), Log(), **OPTIONS[name])
        trained = [event for part in (stopped, rest) for event in part.seen if event[0] == "train"]
        assert trained == [event for event in module.seen if event[0] == "train"], (place, at)
        assert last_of(folder)["state_dict"] == whole["state_dict"]


def test_overfit_batches_are_the_first_of_the_split_in_its_order(tmp_path: Path) -> None:
    run(tmp_path, module := Recorder(), Log(), overfit_batches=2, max_steps=5)
    trained = [event[3:] for event in module.seen if event[0] == "train"]
    assert trained == [(1, 2, 3, 4), (5, 6, 7, 8)] * 2 + [(1, 2, 3, 4)]
