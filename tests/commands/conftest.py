"""Fixtures of several tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.predictions import make_checkpoint


@pytest.fixture
def checkpoint() -> Path:
    """Of an untrained detector of cats and dogs, as a run would leave it."""
    return make_checkpoint()
