"""Which of Lightning's messages are shown, and how a warning looks."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Final

KNOWN_WARNINGS: Final = (
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 on recent versions of torch
    r".*is not supported by the model summary",  # the size in MB, not the training
    r".*custom batch sampler `EvalBatchSampler`",  # it returns every index once, which is what is asked for
    r".*The dirpath has changed",  # a resumed run has a folder of its own
    r".*module\(s\) in eval mode at the start of training",  # the norms of a backbone that is frozen
    r".*smaller than the logging interval",  # which counts on over the epochs
)
# Messages that say nothing of the run: advertisements, what the machine has not, the seed that config.yaml holds.
NOISE: Final = re.compile(r"💡 Tip:|[GT]PU available: False|(\[rank: \d+\] )?Seed set to")
LIGHTNING_LOGGERS: Final = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")


def quiet_messages() -> None:
    """Hides the known warnings and messages, and shows other warnings without file and line."""
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = format_warning
    for name in LIGHTNING_LOGGERS:
        logging.getLogger(name).addFilter(is_about_the_run)  # a filter that is there already is not added again


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one line that says what it is; the place in the code helps no user."""
    return f"Warning: {message}\n"


def is_about_the_run(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's is more than noise."""
    return NOISE.match(record.getMessage()) is None
