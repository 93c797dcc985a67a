"""Checkpoints are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import (
    FORMAT,
    PROJECT_KEY,
    anchor_wh_of,
    check_checkpoint,
    damage,
    find_checkpoint,
    read_checkpoint,
)
from anchor_lightning.training.checkpoint_io import UNFINISHED, AtomicCheckpointIO, lock, remove_unfinished
from tests.helpers.launching import run

SIZE = 500_000


def content(value: float) -> dict[str, Any]:
    # Of NumPy: the threads that torch fills with do not outlive a fork.
    return {
        "state_dict": {"detector.shapes.log_wh": torch.from_numpy(np.full((SIZE // 2, 2), value, dtype=np.float32))},
        "global_step": int(value),
    }


def save_for_ever(path: Path) -> None:
    value = 0
    try:
        while True:
            AtomicCheckpointIO().save_checkpoint(content(value), path)
            value += 1
    finally:
        os._exit(1)  # never back into the tests


@pytest.fixture
def memory() -> Iterator[Path]:
    """On another file system than temporary files, where a move would be a copy."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_killed_while_saving(memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty kills at random moments: each time the file is whole, and what is left beside it is cleaned up."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    draw = random.Random(0)
    path, unfinished = memory / "last.ckpt", 0
    for _ in range(20):
        before = path.stat().st_mtime_ns if path.exists() else 0
        if not (child := os.fork()):
            save_for_ever(path)
        deadline = time.monotonic() + 60
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert damage(path) == ""
        found = read_checkpoint(path)
        assert (found["state_dict"]["detector.shapes.log_wh"] == found["global_step"]).all()
        unfinished += len(remove_unfinished(memory))
        assert [file.name for file in memory.iterdir()] == ["last.ckpt"]
    assert unfinished > 1, "the kills did not come while files were written"
    assert not list(tmp_path.iterdir()), "nothing is left among temporary files"


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    unfinished = tmp_path / f"last.ckpt{UNFINISHED}"
    with unfinished.open("wb") as file:
        assert lock(file)
        assert remove_unfinished(tmp_path) == [] and unfinished.exists()
    assert remove_unfinished(tmp_path) == [unfinished] and not unfinished.exists()


def save_on_a_full_disk() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    AtomicCheckpointIO().save_checkpoint(content(2), "last.ckpt")


def test_no_space(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1), path)
    ((code, said),) = run(tmp_path, [], program=save_on_a_full_disk)
    assert code == 1 and "UserError" in said and "File too large" in said
    assert read_checkpoint(path)["global_step"] == 1 and [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    with pytest.raises(UserError, match=r"last.ckpt/x.ckpt .*File exists"):
        AtomicCheckpointIO().save_checkpoint(content(1), path / "x.ckpt")


def spoil(path: Path, how: str) -> None:
    """Cuts a checkpoint, or changes one byte of a tensor, which loading would not notice."""
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "version_0" / "checkpoints"
    for name, step in (("step2.ckpt", 2), ("step4.ckpt", 4), ("last.ckpt", 6)):
        AtomicCheckpointIO().save_checkpoint(content(step), folder / name)
        time.sleep(0.01)
    assert find_checkpoint("last", tmp_path) == folder / "last.ckpt"
    spoil(folder / "last.ckpt", how)
    if how == "changed":
        torch.load(folder / "last.ckpt", weights_only=True)  # compares no checksums
        assert "has changed" in damage(folder / "last.ckpt")
    with pytest.warns(match=r"last.ckpt is damaged .*step4.ckpt"):
        assert find_checkpoint("last", tmp_path) == folder / "step4.ckpt"
    spoil(folder / "step4.ckpt", how)
    with pytest.warns(match="step2.ckpt"):
        assert find_checkpoint("last", tmp_path) == folder / "step2.ckpt"
    spoil(folder / "step2.ckpt", how)
    with pytest.raises(UserError, match="no other checkpoint"):
        find_checkpoint("last", tmp_path)
    AtomicCheckpointIO().save_checkpoint(content(8), tmp_path / "version_1" / "checkpoints" / "step8.ckpt")
    assert find_checkpoint("last", tmp_path).name == "step8.ckpt", "the newest run's, whatever its name"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({PROJECT_KEY: {"format": FORMAT + 1}}, f"format {FORMAT + 1}"),
        ({"state_dict": {"weight": torch.zeros(2)}}, "log_wh"),
        ({"state_dict": {"shapes.log_wh": "5"}}, "log_wh"),
        ({"state_dict": [torch.zeros(2)]}, "state_dict"),
        ({"hyper_parameters": [1]}, "hyper_parameters"),
        ({"global_step": "7"}, "global_step"),
        ({PROJECT_KEY: None}, PROJECT_KEY),
    ],
)
def test_checkpoints_of_others(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    torch.save(content(1) | change, path := tmp_path / "new.ckpt")
    with pytest.raises(UserError, match=f"new.ckpt .*{message}") as caught:
        read_checkpoint(path, "weights")
    assert caught.value.argument == "weights"


def test_what_a_checkpoint_must_match() -> None:
    checkpoint = content(1) | {PROJECT_KEY: {"must_match": {"detector": "SSD", "sizes": [1, 2]}}}
    check_checkpoint(checkpoint, {"detector": "SSD", "sizes": [1, 2]})
    assert torch.equal(anchor_wh_of(content(2)), torch.full((SIZE // 2, 2), 2.0).exp())
    for expected, name, values in (
        ({"detector": "YOLOv2", "width": 1}, "detector", "SSD.*YOLOv2"),
        ({"detector": "SSD", "sizes": [1, 2], "width": 0.5}, "width", "None.*0.5"),
    ):
        with pytest.raises(UserError, match=values) as caught:
            check_checkpoint(checkpoint, expected)
        assert caught.value.argument == name
    with pytest.raises(UserError, match="None"):
        check_checkpoint(content(1), {"detector": "SSD"})
