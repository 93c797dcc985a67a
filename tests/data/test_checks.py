"""Sizes of the network input; open files and shared memory are asked for before workers start."""

from __future__ import annotations

import resource
import shutil
from types import SimpleNamespace

import pytest

from anchor_lightning.data import checks
from anchor_lightning.data.checks import check_workers, parse_image_size
from anchor_lightning.errors import UserError

UNLIMITED = resource.RLIM_INFINITY


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
    """A process that may have `soft` files open, and `hard` if it asks; 64 MB of shared memory are free."""
    state = {"soft": 1024, "hard": 1024}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (state["soft"], state["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: state.update(soft=pair[0]))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=64 * 10**6))
    monkeypatch.setattr(checks, "SHARED", checks.Path("/"))
    return state


def test_too_few_open_files_or_too_little_shared_memory(files: dict[str, int]) -> None:
    check_workers(2, 32 * 10**6)
    with pytest.raises(UserError, match=r"num_workers: .*132\.0 MB .*64\.0 MB.*--shm-size"):
        check_workers(4, 33 * 10**6)
    files.update(soft=100, hard=100)
    with pytest.raises(UserError, match=r"num_workers: .* 128 .* 100\. .*ulimit -n"):
        check_workers(2, 0)
    check_workers(1, 0)
    check_workers(0, 10**12)


@pytest.mark.parametrize(
    ("soft", "hard", "workers", "raised"),
    [(100, UNLIMITED, 16, 4096), (100, 200, 4, 200), (UNLIMITED, UNLIMITED, 1000, UNLIMITED)],
)
def test_the_limit_is_raised_as_far_as_it_goes(
    files: dict[str, int], soft: int, hard: int, workers: int, raised: int
) -> None:
    files.update(soft=soft, hard=hard)
    check_workers(workers, 0)
    assert files["soft"] == raised
