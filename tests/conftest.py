"""What all tests share: the real data, where it lies beside the checkout."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anchor_lightning.messages import LOGGER

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and boxes; the test skips without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real data beside the checkout")
    return SHARED_DATA


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands start in a folder of their own, offline, and as a user types them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["anchor_lightning"])


@pytest.fixture(autouse=True, scope="session")
def _quick() -> Iterator[None]:
    """No waiting of threads for each other over small tensors, nor for the disk: no test ends the machine."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _captured_messages() -> None:
    """Messages reach pytest's capture even where a conftest imported their loggers before it began."""
    for name in ("lightning.pytorch", LOGGER):
        logging.getLogger(name).propagate = True
