"""Memory of a long training of small steps, with logging, figures, validation and checkpoints: it stays flat."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from anchor_lightning.cli import main
from tests.helpers.bad_input import SYNTHETIC

MIB, STEPS = 2**20, int(os.environ.get("SOAK_STEPS", "1500"))


class Memory(Callback):
    """MiB in memory after every tenth step."""

    measured: ClassVar[list[float]] = []  # of the class: the command line makes the instance

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        if trainer.global_step % 10:
            return
        gc.collect()  # drawn figures are cycles, of which a few are garbage at any time
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        Memory.measured.append(pages * os.sysconf("SC_PAGE_SIZE") / MIB)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_stays_flat(elsewhere: None) -> None:
    """The last tenth against the one before the middle: caches fill at first, and λ and T fall to 0."""
    args = [
        f"--trainer.max_steps={STEPS}",
        f"--trainer.val_check_interval={STEPS // 20}",
        "--anchor_logger.every_n_steps=10",
    ]
    args += [f"--{warm_up}.steps={STEPS // 10}" for warm_up in ("soft_assignment", "clustering")]
    main(["fit", *SYNTHETIC, *args, "--data.num_train=200", f"--trainer.callbacks+={__name__}.Memory"])
    count = len(Memory.measured)
    assert count == STEPS // 10
    early, late = (median(Memory.measured[int(a * count) : int(b * count)]) for a, b in ((0.4, 0.5), (0.9, 1)))
    assert late - early < max(16, 0.02 * early), f"{early:.0f} MiB early, {late:.0f} MiB late"
