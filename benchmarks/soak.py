"""A long training of small steps whose memory has to stay flat: logging, figures, validation and checkpoints included.

    python benchmarks/soak.py [--steps 20000] [--folder runs/soak]

Prints the resident memory of the process and its workers along the way, and ends with status 1 where the last tenth of
the run needs 2 % and 16 MiB more than the tenth after the first fifth, in which caches fill and λ and T fall to 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer

from anchor_lightning.cli import main

MIB = 2**20


def resident() -> float:
    """MiB in memory of this process and its workers; what they share counts for each."""
    pids = [os.getpid(), *map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


class Memory(Callback):
    """Notes the memory along the way.

    Args:
        every: Steps between two measurements.
    """

    measured: ClassVar[list[tuple[int, float]]] = []  # of the class: the command line makes the instance

    def __init__(self, every: int = 100) -> None:
        self.every = every
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Measures."""
        step = trainer.global_step
        if step % self.every == 0:
            Memory.measured.append((step, resident()))
            if step % (10 * self.every) == 0:
                seconds = time.perf_counter() - self.start
                print(
                    f"step {step}: {Memory.measured[-1][1]:.0f} MiB, {seconds / step * 1000:.1f} ms a step", flush=True
                )


def soak(steps: int, folder: Path) -> bool:
    """Trains; whether memory stayed flat."""
    main(
        [
            *("fit", "--config", "synthetic.yaml", "--model.width", "0.1", "--data.batch_size", "2"),
            *("--data.image_size", "64", "--data.num_workers", "1", "--data.num_train", "200", "--data.num_val", "8"),
            *("--trainer.accelerator", "cpu", "--trainer.max_steps", str(steps), "--trainer.val_check_interval"),
            *("1000", "--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0"),
            *("--model.prior_images", "0", "--soft_assignment.steps", str(steps // 10)),
            *("--clustering.steps", str(steps // 10), "--trainer.default_root_dir", str(folder)),
            f"--trainer.callbacks+={__name__}.Memory",
        ]
    )
    early = [mib for step, mib in Memory.measured if 0.2 * steps < step <= 0.3 * steps]
    late = [mib for step, mib in Memory.measured if step > 0.9 * steps]
    growth = median(late) - median(early)
    print(f"{steps} steps: {median(early):.0f} MiB early, {median(late):.0f} MiB late ({growth:+.1f} MiB)")
    return growth < max(16, 0.02 * median(early))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    arguments = parser.parse_args()
    sys.argv[1:] = []
    sys.exit(0 if soak(arguments.steps, arguments.folder) else 1)
