"""What all tests share: the real data, where it lies beside the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

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


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    """Small tensors on a shared machine: more threads only make the tests wait for each other."""
    torch.set_num_threads(1)
