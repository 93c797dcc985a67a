"""Sizes of the network input; open files and shared memory are asked for before workers start."""

from __future__ import annotations

import resource
import shutil
from collections import namedtuple

import pytest

from anchor_lightning.data import checks
from anchor_lightning.data.checks import check_workers, parse_image_size
from anchor_lightning.errors import UserError

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("value", "remedy"),
    [(100, "Try 96 or 128"), ([64, 50], "Try 32 or 64"), (0, "Try 32"), (-32, "Try 32"), (20, "Try 32"), ([32], "int")],
)
def test_image_sizes_are_sides_or_pairs(value: int | list[int], remedy: str) -> None:
    assert parse_image_size(416) == (416, 416)
    assert parse_image_size([96, 32]) == (96, 32)
    with pytest.raises(UserError, match=rf"val_image_size: .*{remedy}"):
        parse_image_size(value, "val_image_size")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A process that may have `soft` files open, and `hard` if it asks."""
    state = {"soft": 1024, "hard": 1024}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (state["soft"], state["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: state.update(soft=pair[0]))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 64 * 10**6))
    monkeypatch.setattr(checks, "SHARED", checks.Path("/"))
    return state


def test_too_few_open_files(files: dict[str, int]) -> None:
    files.update(soft=100, hard=100)
    with pytest.raises(UserError, match=r"num_workers: .* 128 .* 100\. .*ulimit -n"):
        check_workers(2, 0)
    check_workers(1, 0)
    check_workers(0, 10**12)


def test_the_limit_is_raised_as_far_as_it_goes(files: dict[str, int]) -> None:
    files.update(soft=100, hard=resource.RLIM_INFINITY)
    check_workers(16, 0)
    assert files["soft"] == 4096
    files.update(soft=100, hard=200)
    check_workers(4, 0)
    assert files["soft"] == 200
    files.update(soft=resource.RLIM_INFINITY, hard=resource.RLIM_INFINITY)
    check_workers(1000, 0)


def test_too_little_shared_memory(files: dict[str, int]) -> None:
    check_workers(2, 32 * 10**6)
    with pytest.raises(UserError, match=r"num_workers: .*132\.0 MB .*64\.0 MB.*--shm-size"):
        check_workers(4, 33 * 10**6)
