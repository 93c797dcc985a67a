"""A run that was ended, however it was, and goes on equals one that was never ended, bit for bit."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

from anchor_lightning.cli import main
from tests.helpers.end_at import EndAt
from tests.helpers.launching import run, torchrun_variables, with_callback

ARGS = [
    *("fit", "--config", "synthetic.yaml", "--model.anchors.init", "kmeans", "--data.num_workers", "0"),
    *("--data.batch_size", "2", "--data.num_train", "10", "--data.num_val", "3", "--data.image_size", "64"),
    *("--trainer.accelerator", "cpu", "--trainer.max_steps", "8", "--trainer.val_check_interval", "4"),
    *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1", "--checkpoint.every_n_train_steps"),
    *("2", "--anchor_logger.every_n_steps", "1", "--soft_assignment.steps", "6", "--clustering.steps", "5"),
    *("--trainer.num_sanity_val_steps", "0", "--model.score_threshold", "0.001", "--anchor_logger.animation", "false"),
    *("--model.learning_rate", "{0: 0.001, 3: 0.01, 6: 0.001}", "--prediction_pictures.num_images", "0"),
]
YOLO = ["--model.detector.width", "0.1"]
ACCUMULATED = [*YOLO, "--trainer.accumulate_grad_batches", "2"]
TWO_STAGES = [
    *("--config", "detector/faster_rcnn_small_fpn.yaml", "--model.anchors.init", "identical"),
    *("--trainer.max_steps", "5"),
]
THREE_LEVELS = [
    *("--config", "detector/yolov3_small.yaml", *YOLO, "--data.image_size", "64", "--trainer.max_steps", "6"),
    *("--model.anchors.init", "uniform"),
]
TWO_PROCESSES = [
    *(*YOLO, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.num_train", "12"),
    *("--checkpoint.every_n_train_steps", "3"),
]
TERMINATED = 128 + signal.SIGTERM


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def last(folder: Path, version: int = 0) -> dict[str, Any]:
    path = folder / "runs" / f"version_{version}" / "checkpoints" / "last.ckpt"
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def logged(folder: Path, version: int, first: int = 0) -> dict[tuple[str, str], str]:
    """Step and key -> value of what was logged from a step on."""
    return {
        (row["step"], key): value
        for row in rows(folder / "runs" / f"version_{version}" / "metrics.csv")
        for key, value in row.items()
        if value and key not in ("step", "epoch") and int(row["step"]) >= first
    }


def train(folder: Path, args: list[str], status: int = 0, variables: Mapping[str, str] | None = None) -> str:
    """What one process says."""
    ((ended, said),) = run(folder, [*ARGS, *args], variables or {})
    assert ended == status, said[-2000:]
    return said


def train_two(folder: Path, args: list[str], status: int = 0) -> None:
    ended = run(folder, [*ARGS, *TWO_PROCESSES, *args], *torchrun_variables())
    assert [code for code, _ in ended] == [status, status], ended


def assert_equal_ends(whole: Path, part: Path, *more: str) -> None:
    """All that training depends on has the same bits."""
    for name in ("global_step", "state_dict", "optimizer_states", *more):
        (ours, structure), (theirs, other_structure) = (
            tree_flatten(last(folder, version)[name]) for folder, version in ((whole, 0), (part, 1))
        )
        assert structure == other_structure, name
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def assert_same_end(whole: Path, part: Path, resumed_from: int) -> None:
    """The resumed run (version_1 of `part`) has ended as the whole one, and both its logs together say the same."""
    assert_equal_ends(whole, part, "epoch")
    expected = logged(whole, 0)
    assert min(int(step) for step, key in logged(part, 1) if key == "train/loss") == resumed_from
    assert {key for _, key in expected} >= {"train/loss", "anchors/temperature", "anchors/lambda", "val/map_50"}
    assert expected == logged(part, 0) | logged(part, 1)
    paths = (whole / "runs" / "version_0" / "anchors.csv", part / "runs" / "version_1" / "anchors.csv")
    assert rows(paths[0]) == rows(paths[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of the run that was never ended, for given args."""
    made: dict[tuple[str, ...], Path] = {}

    def make(args: list[str], train: Callable[..., object] = train) -> Path:
        if (key := tuple(args)) not in made:
            made[key] = tmp_path_factory.mktemp("whole")
            train(made[key], args)
        return made[key]

    return make


@pytest.mark.parametrize(
    ("args", "more", "step", "where"),
    [
        (YOLO, ["--data.num_workers", "2"], 3, {}),
        (YOLO, [], 4, {"place": "validation", "batch": 1}),
        (ACCUMULATED, [], 6, {"place": "after", "batch": 1}),
        (TWO_STAGES, [], 3, {}),
        (THREE_LEVELS, [], 3, {}),
    ],
    ids=["workers", "validation", "window at an epoch's end", "two stages", "three levels"],
)
def test_killed(whole: Any, tmp_path: Path, args: list[str], more: list[str], step: int, where: dict[str, Any]) -> None:
    """The whole run loads its images without workers."""
    train(tmp_path, [*args, *more, *with_callback(EndAt, what="SIGKILL", step=step, **where)], -signal.SIGKILL)
    saved = last(tmp_path)["global_step"]
    # A checkpoint is written when the validation of its step is done, too.
    assert saved == (step - ("validation" in where.values())) // 2 * 2
    train(tmp_path, [*args, *more, "--resume"])
    assert_same_end(whole(args), tmp_path, saved)


@pytest.mark.usefixtures("elsewhere")
def test_what_resume_goes_on_from(whole: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing: it starts afresh. A finished run: nothing is done. Another configuration: named, and not taken."""
    caplog.set_level("INFO")
    args = [*ARGS, *YOLO]
    for root, option in (("a", "--resume"), ("b", "--ckpt_path=last")):
        main([*args, option, "--trainer.max_steps", "1", "--trainer.default_root_dir", root])
        assert f"no checkpoint to go on from under {root}" in caplog.text
        assert (tmp_path / root / "version_0" / "checkpoints" / "last.ckpt").exists()

    shutil.copytree(whole(YOLO) / "runs", tmp_path / "runs")
    # Neither where the run lies nor how it loads images makes it another one.
    main([*args, "--resume", "--data.num_workers", "2"])
    assert "goes on from runs/version_0/checkpoints/last.ckpt" in caplog.text
    assert "Nothing is left to train" in caplog.text
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["version_0"]

    for name, value in (
        ("model.learning_rate", "{0: 0.001, 3: 0.01, 6: 0.001, 7: 0.5}"),
        ("model.anchors.lr_mult", "2"),
    ):
        main([*args, "--resume", f"--{name}", value, "--trainer.max_steps", "1"])
        assert "starts afresh" in caplog.text and f"is of another run: {name}" in caplog.text
        assert last(tmp_path, 1)["global_step"] == 1
        shutil.rmtree(tmp_path / "runs" / "version_1")

    for command in ("validate", "predict", "fit"):  # whose options a run's config.yaml serves as well
        main([command, "--config", "runs/version_0/config.yaml", "--ckpt_path", "last"])


@pytest.mark.parametrize(
    ("args", "end", "status", "saved"),
    [
        (ACCUMULATED, EndAt("SIGTERM", 3), TERMINATED, 4),
        (YOLO, EndAt("SIGTERM", 4, "validation", 1), TERMINATED, 4),
        (YOLO, EndAt("SIGINT", 5), 1, 6),
        (YOLO, EndAt("SIGTERM", 7, "after"), TERMINATED, 8),
        (YOLO, EndAt("error", 4, "validation", 1), 1, 2),
    ],
)
def test_ended(whole: Any, tmp_path: Path, args: list[str], end: EndAt, status: int, saved: int) -> None:
    """Signals save the step in which they come; an exception leaves the last regular checkpoint."""
    every = [] if end.what == "error" else ["--checkpoint.every_n_train_steps", "100"]
    train(tmp_path, [*args, *every, *with_callback(EndAt, **vars(end))], status)
    assert last(tmp_path)["global_step"] == saved
    train(tmp_path, [*args, *every, "--resume"])
    if saved < 8:
        assert_same_end(whole(args), tmp_path, saved)
        return
    # Every step was done, and the last validation was not.
    expected, found = (
        {key: value for (_, key), value in logged(*run).items() if "val/" in key}
        for run in ((whole(args), 0, 7), (tmp_path, 1))
    )
    assert found and found == expected


def test_two_processes_killed(whole: Any, tmp_path: Path) -> None:
    train_two(tmp_path, with_callback(EndAt, what="SIGKILL", step=4), -signal.SIGKILL)
    assert last(tmp_path)["global_step"] == 3
    train_two(tmp_path, ["--resume"])
    assert_equal_ends(whole([], train_two), tmp_path)


def test_a_signal_to_the_process_that_lightning_has_started(whole: Any, tmp_path: Path) -> None:
    train(tmp_path, [*TWO_PROCESSES, *with_callback(EndAt, what="SIGTERM", step=4, rank=1)], TERMINATED)
    assert last(tmp_path)["global_step"] == 5
    train_two(tmp_path, ["--resume"])
    assert_equal_ends(whole([], train_two), tmp_path)


def test_a_loss_that_is_not_finite_on_the_second_process_alone(tmp_path: Path) -> None:
    """Seen there, before it reaches the weights of both: the step is its own, and the checkpoint is from before."""
    said = train(tmp_path, [*TWO_PROCESSES, *with_callback(EndAt, what="nan", step=4, rank=1)], 1)
    assert "not finite at step 4" in said
    assert last(tmp_path)["global_step"] == 3


def test_slurm_requeues_between_two_steps(whole: Any, tmp_path: Path) -> None:
    """Lightning saves and requeues, where a step ends; SLURM ends the job, and the next one goes on."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nkill -TERM $PPID\n')
    (tmp_path / "scontrol").chmod(0o755)
    job = dict.fromkeys(("JOB_ID", "NTASKS", "STEP_NUM_TASKS", "NTASKS_PER_NODE", "NNODES"), "1")
    job |= dict.fromkeys(("PROCID", "LOCALID", "NODEID", "STEP_ID"), "0") | {"JOB_NAME": "anchors"}
    variables = {f"SLURM_{name}": value for name, value in job.items()}
    variables["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    args = [*YOLO, "--checkpoint.every_n_train_steps", "100"]
    train(tmp_path, [*args, *with_callback(EndAt, what="SIGUSR1", step=3, place="after")], TERMINATED, variables)
    assert (tmp_path / "asked").read_text() == "requeue 1\n"
    assert torch.load(tmp_path / "runs" / "hpc_ckpt_1.ckpt", weights_only=True)["global_step"] == 4
    # Lightning would take that checkpoint for any run.
    said = train(tmp_path, [*args, "--model.momentum", "0.8"], 1, variables)
    assert "model.momentum is 0.9 there and 0.8 here" in said
    train(tmp_path, [*args, "--resume"], 0, variables)
    assert_equal_ends(whole(YOLO), tmp_path)


@pytest.mark.usefixtures("elsewhere")
def test_in_a_job_of_slurms_nothing_is_measured_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would load what requeueing left, whatever weights are given otherwise."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "hpc_ckpt_1.ckpt").touch()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "anchors")
    for command in ("validate", "test", "predict"):
        with pytest.raises(SystemExit, match=r"--ckpt_path: is not given, and .* would load runs/hpc_ckpt_1\.ckpt"):
            main([command, *ARGS[1:], *YOLO])
