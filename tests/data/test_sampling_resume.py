"""A stopped and resumed run sees, validates and logs what an uninterrupted one does, in Lightning's real loop."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from anchor_lightning.structures import DetectionBatch
from anchor_lightning.training.checkpoints import Checkpoint
from tests.helpers.tiny_data import MemoryModule

Event = tuple[Any, ...]


class Log(Logger):
    """Keeps what is logged: (kind, optimizer steps, epoch, value)."""

    name = version = None

    def __init__(self) -> None:
        self.rows: list[Event] = []

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows += [(key, step, metrics["epoch"], value) for key, value in metrics.items() if key != "epoch"]


class Recorder(LightningModule):
    """Learns one number and notes, batch by batch, the step and the images.

    When `stop_at` training batches (`place` train) or validation batches (val) were begun, an exception or a signal
    stops it.
    """

    def __init__(self, place: str = "", stop_at: int = 0, number: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[Event] = []
        self.place, self.stop_at, self.number = place, stop_at, number

    def note(self, place: str, batch: DetectionBatch) -> None:
        self.seen.append((place, self.global_step, self.current_epoch, *batch.image_ids.tolist()))
        if place == self.place and sum(event[0] == place for event in self.seen) == self.stop_at:
            if self.number is None:
                raise KeyError("the run fails")
            os.kill(os.getpid(), self.number)

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


def run(folder: Path, module: Recorder, log: Log, ckpt: Path | None = None, **options: Any) -> None:
    """Trains to the end, or to where the module stops it; the checkpoints lie in the folder."""
    checkpoint = Checkpoint(options.pop("every", 2), dirpath=folder, enable_version_counter=False)
    off = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "use_distributed_sampler"), False)
    options = {"accelerator": "cpu", "log_every_n_steps": 1, "num_sanity_val_steps": 0, **off, **options}
    limits = {"max_steps": 11} if "max_epochs" not in options else {}
    trainer = Trainer(callbacks=[checkpoint], logger=log, **limits, **options)
    data = MemoryModule(batch_size=4, image_size=[32, 64], num_workers=0, seed=3)
    resumed = {} if ckpt is None else {"ckpt_path": str(ckpt), "weights_only": True}
    trainer.fit(module, data, **resumed)


def end_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    return content


def assert_goes_on(whole: list[Event], rest: list[Event], first: int) -> None:
    """`rest` is all of `whole` from an optimizer step on; validations of that step may have been done before."""
    whole, rest = (
        [event for event in events if event[1] > first or (event[0] == "train" and event[1] == first)]
        for events in (whole, rest)
    )
    assert rest == whole


# 20 images, batches of 4: five batches an epoch, and two validation batches.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"check_val_every_n_epoch": 10},
    "every epoch": {},
    "limit": {"limit_train_batches": 3},
    "share": {"limit_train_batches": 0.6, "val_check_interval": 2, "check_val_every_n_epoch": None},
    "accumulate 2": {"accumulate_grad_batches": 2},
    "accumulate 3": {"accumulate_grad_batches": 3, "val_check_interval": 2, "check_val_every_n_epoch": None},
    "every batch": {"accumulate_grad_batches": 2, "val_check_interval": 1, "check_val_every_n_epoch": None},
    "epochs": {"max_epochs": 3, "check_val_every_n_epoch": 2, "every": 5},
    "epochs, validated": {"max_epochs": 3, "every": 1},
    "epochs, accumulate": {"max_epochs": 4, "accumulate_grad_batches": 2, "every": 1, "check_val_every_n_epoch": 3},
}
# Place, number of the batch, and what comes: None is an exception. A batch of a validation may be the second of two.
STOPS = [("train", 6, None), ("train", 8, signal.SIGTERM), ("val", 3, None), ("val", 4, signal.SIGTERM)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory")
def test_a_resumed_run_repeats_nothing_and_skips_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    """Stopped anywhere, and again after that: the same images, validations, logged values, weights and counters."""
    module, expected = Recorder(), Log()
    run(tmp_path / "whole", module, expected, **options)
    whole = end_of(tmp_path / "whole")
    for place, at, number in STOPS:
        ckpt: Path | None = None
        log = Log()  # of all attempts together
        for attempt, stopped in enumerate((Recorder(place, at, number), Recorder(place, 5, number), Recorder())):
            folder = tmp_path / f"{place}_{at}_{attempt}"
            first = end_of(ckpt.parent)["global_step"] if ckpt else 0
            try:
                run(folder, stopped, log, ckpt, **options)
                break
            except (KeyError, SIGTERMException):
                if (folder / "last.ckpt").exists():
                    ckpt = folder / "last.ckpt"
        assert_goes_on(module.seen, stopped.seen, first)
        assert set(log.rows) == set(expected.rows)
        all_done_before = ckpt is not None and not (folder / "last.ckpt").exists()
        end = end_of(ckpt.parent if ckpt is not None and all_done_before else folder)
        for name in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers"):
            assert end[name] == whole[name], (place, at, number, name)


@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["accumulate 2"], OPTIONS["share"]])
@pytest.mark.parametrize("steps", [5, 6])
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_finished_run_goes_on_to_more_steps(tmp_path: Path, options: dict[str, Any], steps: int) -> None:
    module, rest, expected, log = Recorder(), Recorder(), Log(), Log()
    run(tmp_path / "whole", module, expected, max_epochs=-1, max_steps=11, **options)
    run(tmp_path / "part", Recorder(), log, max_epochs=-1, max_steps=steps, **options)
    run(tmp_path / "rest", rest, log, tmp_path / "part" / "last.ckpt", max_epochs=-1, max_steps=11, **options)
    assert_goes_on(module.seen, rest.seen, steps)
    assert set(log.rows) == set(expected.rows)
    assert end_of(tmp_path / "rest")["state_dict"] == end_of(tmp_path / "whole")["state_dict"]
