"""A run that was ended, however it was, and goes on equals one that was never ended, bit for bit."""

from __future__ import annotations

import csv
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

from anchor_lightning.cli import main
from tests.helpers.killed_run import Event, train
from tests.helpers.launching import CLI, run_all

ARGS = [
    *("fit", "--config", "synthetic.yaml", "--model.anchors.init", "kmeans", "--data.num_workers", "0"),
    *("--data.batch_size", "2", "--data.num_train", "10", "--data.num_val", "3", "--data.image_size", "64"),
    *("--trainer.accelerator", "cpu", "--trainer.max_steps", "8", "--trainer.val_check_interval", "4"),
    *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1", "--checkpoint.every_n_train_steps"),
    *("2", "--anchor_logger.every_n_steps", "1", "--soft_assignment.steps", "6", "--clustering.steps", "5"),
    *("--trainer.num_sanity_val_steps", "0", "--model.score_threshold", "0.001", "--anchor_logger.animation", "false"),
    *("--model.learning_rate", "{0: 0.001, 3: 0.01, 6: 0.001}"),
]
YOLO = ["--model.detector.width", "0.1"]
TWO_WORKERS = [*YOLO, "--data.num_workers", "2"]
ACCUMULATED = [*YOLO, "--trainer.accumulate_grad_batches", "2"]
TWO_STAGES = [
    *("--config", "detector/faster_rcnn_small_fpn.yaml", "--model.anchors.init", "identical"),
    *("--trainer.max_steps", "5"),
]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def last(folder: Path, run: int = 0) -> dict[str, Any]:
    path = folder / "runs" / f"version_{run}" / "checkpoints" / "last.ckpt"
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def logged(folder: Path, run: int, first: int) -> dict[tuple[str, str], str]:
    """Step and key -> value of what was logged from a step on."""
    return {
        (row["step"], key): value
        for row in rows(folder / "runs" / f"version_{run}" / "metrics.csv")
        for key, value in row.items()
        if value and key not in ("step", "epoch") and int(row["step"]) >= first
    }


def assert_equal(one: Any, other: Any, name: str) -> None:
    """Of all that a checkpoint may hold, to the bit."""
    (ours, structure), (theirs, other_structure) = tree_flatten(one), tree_flatten(other)
    assert structure == other_structure, name
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def assert_same_end(whole: Path, part: Path, resumed_from: int) -> None:
    """The resumed run (version_1 of `part`) has ended as the whole one, and both its logs together say the same."""
    a, b = last(whole), last(part, run=1)
    for name in ("global_step", "epoch", "state_dict", "optimizer_states"):
        assert_equal(a[name], b[name], name)
    expected, found = logged(whole, 0, 0), logged(part, 0, 0) | logged(part, 1, 0)
    assert min(int(step) for step, key in logged(part, 1, 0) if key == "train/loss") == resumed_from
    assert {key for _, key in expected} >= {"train/loss", "anchors/temperature", "anchors/lambda", "val/map_50"}
    assert expected == found
    paths = (whole / "runs" / "version_0" / "anchors.csv", part / "runs" / "version_1" / "anchors.csv")
    assert rows(paths[0]) == rows(paths[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of the run that was never ended, for given args."""
    made: dict[tuple[str, ...], Path] = {}

    def make(args: list[str]) -> Path:
        if (key := tuple(args)) not in made:
            made[key] = folder = tmp_path_factory.mktemp("whole")
            assert train(folder, [*ARGS, *args]) == 0, (folder / "log.txt").read_text()[-2000:]
        return made[key]

    return make


@pytest.mark.parametrize(
    ("args", "event"),
    [
        (YOLO, Event(3, signal.SIGKILL)),
        (YOLO, Event(4, signal.SIGKILL, "validation", 1)),
        (YOLO, Event(7, signal.SIGKILL, "after")),
        (TWO_WORKERS, Event(5, signal.SIGKILL)),
        (ACCUMULATED, Event(3, signal.SIGKILL, batch=1)),
        (ACCUMULATED, Event(6, signal.SIGKILL)),
        (TWO_STAGES, Event(3, signal.SIGKILL)),
    ],
    ids=["start", "validation", "end", "workers", "window", "epoch", "two stages"],
)
def test_killed(whole: Any, tmp_path: Path, args: list[str], event: Event) -> None:
    assert train(tmp_path, [*ARGS, *args], event) == -signal.SIGKILL
    saved = last(tmp_path)["global_step"]
    # A checkpoint is written when the validation of its step is done, too.
    assert saved == (event.step - (event.place == "validation")) // 2 * 2
    assert train(tmp_path, [*ARGS, *args, "--resume"]) == 0, (tmp_path / "log.txt").read_text()[-2000:]
    assert_same_end(whole(args), tmp_path, saved)


def test_what_resume_goes_on_from(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing: it starts afresh. A finished run: nothing is done. Another configuration: named, and not taken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["anchor_lightning"])
    caplog.set_level("INFO")
    args = [*ARGS, *YOLO, "--resume"]
    for root, option in (("a", "--resume"), ("b", "--ckpt_path last")):
        main([*args[:-1], *option.split(), "--trainer.max_steps", "1", "--trainer.default_root_dir", root])
        assert f"no checkpoint to go on from under {root}" in caplog.text
        assert (tmp_path / root / "version_0" / "checkpoints" / "last.ckpt").exists()

    shutil.copytree(whole(YOLO) / "runs", tmp_path / "runs")
    main(args)
    assert "goes on from runs/version_0/checkpoints/last.ckpt" in caplog.text
    assert "Nothing is left to train" in caplog.text
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["version_0"]

    for name, value in (
        ("model.momentum", "0.8"),
        ("model.learning_rate", "{0: 0.001, 3: 0.01, 6: 0.001, 7: 0.5}"),
        ("model.anchors.lr_mult", "2"),
    ):
        caplog.clear()
        main([*args, f"--{name}", value, "--trainer.max_steps", "1"])
        assert "starts afresh" in caplog.text and f"is of another run: {name}" in caplog.text
        assert last(tmp_path, run=1)["global_step"] == 1
        shutil.rmtree(tmp_path / "runs" / "version_1")
    # Neither where the run lies nor how it loads images makes it another one.
    caplog.clear()
    main([*args, "--data.num_workers", "2"])
    assert "goes on from runs/version_0" in caplog.text

    for command in ("validate", "test", "predict", "fit"):  # whose options a run's config.yaml serves as well
        main([command, "--config", "runs/version_0/config.yaml", "--ckpt_path", "last"])


@pytest.mark.parametrize(
    ("args", "event", "status", "saved"),
    [
        (YOLO, Event(3, signal.SIGTERM), 128 + signal.SIGTERM, 4),
        (YOLO, Event(4, signal.SIGTERM, "validation"), 128 + signal.SIGTERM, 4),
        (YOLO, Event(5, signal.SIGINT), 1, 6),
        (YOLO, Event(7, signal.SIGTERM, "after"), 128 + signal.SIGTERM, 8),
        (YOLO, Event(5, None, "after"), 1, 4),
        (YOLO, Event(4, None, "validation", 1), 1, 2),
        (ACCUMULATED, Event(3, signal.SIGTERM), 128 + signal.SIGTERM, 4),
        (ACCUMULATED, Event(3, None, "after", 1), 1, 2),
    ],
)
def test_ended(whole: Any, tmp_path: Path, args: list[str], event: Event, status: int, saved: int) -> None:
    """Signals save the step in which they come; an exception leaves the last regular checkpoint."""
    if event.what is not None:
        args = [*args, "--checkpoint.every_n_train_steps", "100"]
    assert train(tmp_path, [*ARGS, *args], event) == status, (tmp_path / "log.txt").read_text()[-2000:]
    assert last(tmp_path)["global_step"] == saved
    assert train(tmp_path, [*ARGS, *args, "--resume"]) == 0, (tmp_path / "log.txt").read_text()[-2000:]
    if saved < 8:
        assert_same_end(whole(args), tmp_path, saved)
        return
    # Every step was done, and the last validation was not.
    expected, found = (
        {key: value for (_, key), value in logged(folder, run, first).items() if "val/" in key}
        for folder, run, first in ((whole(args), 0, 7), (tmp_path, 1, 0))
    )
    assert found and found == expected


def test_with_a_monitored_metric_the_last_checkpoint_does_not_wait_for_it(tmp_path: Path) -> None:
    args = [*YOLO, "--checkpoint.monitor", "val/map_50", "--trainer.val_check_interval", "8"]
    assert train(tmp_path, [*ARGS, *args], Event(7, signal.SIGKILL)) == -signal.SIGKILL
    assert last(tmp_path)["global_step"] == 6
    assert train(tmp_path, [*ARGS, *args, "--resume"]) == 0
    names = {path.name for path in (tmp_path / "runs" / "version_1" / "checkpoints").iterdir()}
    assert names == {"last.ckpt", "step8.ckpt"}


TWO = [
    *(*YOLO, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.num_train", "12"),
    *("--checkpoint.every_n_train_steps", "3", "--trainer.callbacks+=tests.helpers.end_at.EndAt"),
]


def train_two(folder: Path, step: int, rank: int, number: int, *args: str) -> int:
    """Two processes, to one of which (-1: both) something happens at a step; the exit status of the first."""
    options = ("--trainer.callbacks.step", step, "--trainer.callbacks.rank", rank, "--trainer.callbacks.signal", number)
    command = [sys.executable, *CLI, *ARGS, *TWO, *map(str, options), *args]
    return run_all(folder, command, seconds=200)[0][0]


@pytest.mark.timeout(900)
def test_two_processes(tmp_path: Path) -> None:
    """Killed, ended by a signal to one, by an exception of one of them: each leaves a checkpoint that goes on."""
    never = 100
    assert train_two(tmp_path / "whole", never, 0, 0) == 0
    for name, rank, number, status, saved in (
        ("killed", -1, signal.SIGKILL, -signal.SIGKILL, 3),
        ("signal", 1, signal.SIGTERM, 128 + signal.SIGTERM, 5),
        ("exception", 1, 0, 1, 3),
    ):
        folder = tmp_path / name
        assert train_two(folder, 4, rank, number) == status, name
        assert last(folder)["global_step"] == saved, name
        if name == "exception":
            continue  # resumed from the same checkpoint as the killed one
        assert train_two(folder, never, 0, 0, "--resume") == 0, name
        a, b = last(tmp_path / "whole"), last(folder, run=1)
        for part in ("global_step", "state_dict", "optimizer_states"):
            assert_equal(a[part], b[part], f"{name}: {part}")


def test_slurm_requeues_between_two_steps(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning saves and requeues, where a step ends; SLURM ends the job, and the next one goes on."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nkill -TERM $PPID\n')
    (programs / "scontrol").chmod(0o755)
    for name in ("JOB_ID", "NTASKS", "STEP_NUM_TASKS", "NTASKS_PER_NODE", "NNODES"):
        monkeypatch.setenv(f"SLURM_{name}", "1")
    for name in ("PROCID", "LOCALID", "NODEID", "STEP_ID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_JOB_NAME", "anchors")
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    args = [*YOLO, "--checkpoint.every_n_train_steps", "100"]
    status = train(tmp_path, [*ARGS, *args], Event(3, signal.SIGUSR1, "after"))
    log = (tmp_path / "log.txt").read_text()
    assert status == 128 + signal.SIGTERM, log[-2000:]
    assert (tmp_path / "asked").read_text() == "requeue 1\n"
    assert torch.load(tmp_path / "runs" / "hpc_ckpt_1.ckpt", weights_only=True)["global_step"] == 4
    # Lightning would take that checkpoint for any run.
    assert train(tmp_path, [*ARGS, *args, "--model.momentum", "0.8"]) == 1
    assert "model.momentum is 0.9 there and 0.8 here" in (tmp_path / "log.txt").read_text()
    assert train(tmp_path, [*ARGS, *args, "--resume"]) == 0, (tmp_path / "log.txt").read_text()[-2000:]
    for name in ("global_step", "state_dict", "optimizer_states"):
        assert_equal(last(whole(args))[name], last(tmp_path, run=1)[name], name)
