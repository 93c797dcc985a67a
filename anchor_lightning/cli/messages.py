"""Which of Lightning's messages are shown, and how a warning looks."""

from __future__ import annotations

import logging
import warnings
from typing import Final

KNOWN_WARNINGS: Final = (
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 on recent versions of torch
    r".*is not supported by the model summary",  # the size in MB, not the training
    r".*custom batch sampler `EvalBatchSampler`",  # it returns every index once, which is what is asked for
    r".*The dirpath has changed",  # a resumed run has a folder of its own
    r".*module\(s\) in eval mode at the start of training",  # the norms of a backbone that is frozen
)
ADVERTS: Final = ("💡 Tip:", "TPU available: False")  # beginnings of messages that say nothing of the run
LIGHTNING_LOGGER: Final = "lightning.pytorch.utilities.rank_zero"


def quiet_messages() -> None:
    """Hides the known warnings and Lightning's advertisements, and shows other warnings without file and line."""
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = format_warning
    logging.getLogger(LIGHTNING_LOGGER).addFilter(is_about_the_run)  # a filter that is there already is not added again


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one line that says what it is; the place in the code helps no user."""
    return f"Warning: {message}\n"


def is_about_the_run(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's is not an advertisement."""
    return not record.getMessage().startswith(ADVERTS)
