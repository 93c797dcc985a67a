"""The precision of a run: that in which it was begun, and on a CPU without instructions for bf16 not bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from anchor_lightning.training.processor import has_bf16
from anchor_lightning.training.resume import precision_of

BF16: Final = "bf16-mixed"
FLOAT32: Final = "32-true"
OPTION: Final = "--trainer.precision"


def run_precision(accelerator: Any, precision: Any, is_given: bool, checkpoint: Path | None) -> Any:
    """The precision that a run has, which is said where it is another than that of its configuration.

    Args:
        accelerator: The trainer's.
        precision: The trainer's, by configuration files and the command line.
        is_given: Whether it stands on the command line itself, and is taken as it is.
        checkpoint: What a training goes on from, in the precision in which it was begun.
    """
    is_slow = is_on_cpu(accelerator) and not has_bf16()
    begun = precision_of(checkpoint) if checkpoint and precision == BF16 and not is_given else None
    if begun in (BF16, FLOAT32):
        chosen, why = begun, "in which the run was begun"
    elif precision == BF16 and not is_given and is_slow:
        chosen, why = FLOAT32, f"as this processor has no bf16 instructions ({OPTION} {BF16} takes it all the same)"
    else:
        chosen, why = precision, ""
    if chosen != precision:
        rank_zero_info(f"trainer.precision: {chosen} in place of {precision}, {why}.")
    elif str(chosen).startswith("bf16") and is_slow:
        rank_zero_warn(
            f"trainer.precision: this processor has no bf16 instructions, so that {chosen} is about ten times slower "
            f"than {FLOAT32}."
        )
    return chosen


def is_on_cpu(accelerator: Any) -> bool:
    """Whether Lightning takes the CPU with this option."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
