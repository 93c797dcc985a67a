"""Messages of what knows no Lightning, shown as Lightning shows its own, by the first process of a run alone."""

from __future__ import annotations

import logging
import warnings
from typing import Final

from lightning_utilities.core.rank_zero import rank_zero_only

LOGGER: Final = "anchor_lightning"

_log = logging.getLogger(LOGGER)
_log.setLevel(logging.INFO)
if not logging.getLogger().hasHandlers():  # else the root's, as set up by whoever imports this package, are used
    _log.addHandler(logging.StreamHandler())
    _log.propagate = False


def info(message: str) -> None:
    """Writes a message to stderr."""
    if _is_first():
        _log.info(message)


def warn(message: str) -> None:
    """Gives a UserWarning, whose place is the call of the caller."""
    if _is_first():
        warnings.warn(message, stacklevel=3)


def _is_first() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0  # set when Lightning is imported, as every run of several does
