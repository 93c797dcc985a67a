"""A killed and resumed run sees the images that an uninterrupted one would have seen, in Lightning's real loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from anchor_lightning.structures import DetectionBatch
from tests.helpers.tiny_data import MemoryModule


class Recorder(LightningModule):
    """Learns nothing and notes, batch by batch, the step and the images.

    When as many batches as `die_at` are seen it dies, having written a checkpoint where one is given: in the next
    training `step`, at the batch's `end`, or after the validation that follows (`val`).
    """

    def __init__(self, die_at: int | None = None, place: str = "step", checkpoint: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[int], float]] = []
        self.die_at, self.place, self.checkpoint = die_at, place, checkpoint

    def die(self, place: str) -> None:
        if (len(self.seen), place) == (self.die_at, self.place):
            if self.checkpoint is not None:
                self.trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        self.die("step")
        self.seen.append((self.global_step, batch.image_ids.tolist(), batch.images.mean().item()))
        return self.weight.sum() * batch.images.mean()

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        assert batch.images.shape[-2:] == (32, 64)

    def on_train_batch_end(self, *args: object) -> None:
        self.die("end")

    def on_validation_end(self) -> None:
        self.die("val")

    def predict_step(self, batch: DetectionBatch, batch_idx: int) -> list[int]:
        return batch.image_ids.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder: Path, module: Recorder, ckpt: Path | None = None, every: int = 1, **options: object) -> Recorder:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=11,
        callbacks=[ModelCheckpoint(folder, filename="kept", every_n_train_steps=every, enable_version_counter=False)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,  # type: ignore[arg-type]
    )
    data = MemoryModule(batch_size=4, image_size=[32, 64], num_workers=0, seed=3)
    trainer.fit(
        module, data, ckpt_path=None if ckpt is None else str(ckpt), weights_only=None if ckpt is None else True
    )
    return module


@pytest.mark.parametrize("die_at", [2, 5, 8])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit_train_batches": 3},
        {"limit_train_batches": 0.6, "val_check_interval": 2, "check_val_every_n_epoch": None},
        {"accumulate_grad_batches": 2},
    ],
    ids=["plain", "limit", "share", "accumulate"],
)
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resumed_run_repeats_nothing_and_skips_nothing(tmp_path: Path, die_at: int, options: dict[str, object]) -> None:
    whole = run(tmp_path / "whole", Recorder(), **options).seen
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path / "part", Recorder(die_at), **options)
    checkpoint = tmp_path / "part" / "kept.ckpt"
    first_step = torch.load(checkpoint, weights_only=True)["global_step"]
    rest = run(tmp_path / "rest", Recorder(), checkpoint, **options).seen
    assert rest == [entry for entry in whole if entry[0] >= first_step]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("place", ["step", "end", "val"])
@pytest.mark.parametrize("accumulation", [2, 3])
@pytest.mark.parametrize("die_at", [1, 4, 6])
def test_a_partly_accumulated_window_is_replayed_whole(
    tmp_path: Path, die_at: int, accumulation: int, place: str
) -> None:
    options = {"accumulate_grad_batches": accumulation}
    if place == "val":
        options |= {"val_check_interval": 1, "check_val_every_n_epoch": None}
    whole = run(tmp_path, Recorder(), **options).seen
    checkpoint = tmp_path / "killed.ckpt"
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path, Recorder(die_at, place, checkpoint), **options)
    first_step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert run(tmp_path, Recorder(), checkpoint, **options).seen == [entry for entry in whole if entry[0] >= first_step]
