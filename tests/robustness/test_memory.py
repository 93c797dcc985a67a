"""Memory of a training of many small steps, with logging, pictures, validation and checkpoints: it stays flat."""

from __future__ import annotations

import gc
from pathlib import Path
from resource import getpagesize
from statistics import median
from typing import Any, ClassVar

import pytest
from lightning.pytorch import Callback, Trainer

from anchor_lightning.cli import main
from tests.helpers.bad_input import SYNTHETIC

STEPS, EVERY = 240, 20


class Memory(Callback):
    """MiB in memory after every 20 steps."""

    measured: ClassVar[list[float]] = []  # of the class: the command line makes the instance

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % EVERY == 0:
            gc.collect()  # drawn figures are cycles, of which a few are garbage at any time
            Memory.measured.append(int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize() / 2**20)


@pytest.mark.slow
def test_memory_stays_flat(elsewhere: None) -> None:
    """The last quarter against the second: caches fill at first, and λ and T fall to 0."""
    args = [f"--trainer.max_steps={STEPS}", f"--trainer.val_check_interval={EVERY}", "--data.num_train=40"]
    args += ["--prediction_pictures.num_images=2", "--soft_assignment.steps=40", "--clustering.steps=40"]
    main(["fit", *SYNTHETIC, *args, f"--trainer.callbacks+={__name__}.Memory"])
    quarter = STEPS // EVERY // 4
    early, late = (median(Memory.measured[part * quarter :][:quarter]) for part in (1, 3))
    assert len(list(Path().rglob("*.ckpt"))) > 1 and len(Memory.measured) == 4 * quarter
    assert late - early < 4, f"{early:.0f} MiB early, {late:.0f} MiB late"
