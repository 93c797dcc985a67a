"""Options and callbacks of Lightning's trainer, by the command line: honoured, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

from anchor_lightning.cli import main
from tests.helpers.end_at import EndAt
from tests.helpers.launching import with_callback
from tests.helpers.tiny_training import SYNTHETIC

ARGS = [
    *("fit", *SYNTHETIC, "--trainer.max_steps", "6", "--checkpoint.every_n_train_steps", "100"),
    *("--anchor_logger.animation", "false", "--anchor_logger.every_n_steps", "1", "--soft_assignment.steps", "5"),
    *("--clustering.steps", "4", "--prediction_pictures.num_images", "0", "--trainer.enable_model_summary", "false"),
]
EVERY_EPOCH = ["--trainer.val_check_interval", "null", "--trainer.check_val_every_n_epoch", "1"]
AVERAGED = ["--trainer.callbacks+", "EMAWeightAveraging", "--trainer.callbacks.decay", "0.5"]

pytestmark = pytest.mark.usefixtures("elsewhere")


def fit(*args: str) -> None:
    main([*ARGS, *args])


def refused(capsys: pytest.CaptureFixture[str], *args: str, command: str = "fit") -> str:
    """The message with which a command ends, which has made no run folder."""
    before = set(Path().glob("*/version_*"))
    with pytest.raises(SystemExit) as end:
        main([command, *ARGS[1:], *args])
    assert set(Path().glob("*/version_*")) == before
    return str(end.value.code)


def load(path: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def last(root: str, version: int = 0) -> dict[str, Any]:
    return load(f"{root}/version_{version}/checkpoints/last.ckpt")


def equal(ours: Any, theirs: Any) -> bool:
    (a, structure), (b, other) = tree_flatten(ours), tree_flatten(theirs)
    return structure == other and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--trainer.callbacks+", "LearningRateFinder"], "LearningRateFinder would train with a rate"),
        (["--trainer.callbacks+", "BatchSizeFinder"], "BatchSizeFinder would train with a batch size"),
        (
            ["--trainer.callbacks+", "StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"],
            "StochasticWeightAveraging sets one learning rate",
        ),
        (
            ["--trainer.callbacks+", "GradientAccumulationScheduler", "--trainer.callbacks.scheduling", "{1: 2}"],
            "--trainer.accumulate_grad_batches: GradientAccumulationScheduler changes",
        ),
        (["--trainer.limit_train_batches", "0.1"], "--trainer.limit_train_batches: 0.1 leaves no batch of the 3"),
        (["--trainer.limit_train_batches", "0"], "--trainer.limit_train_batches: 0 leaves no batch"),
        (["--trainer.limit_val_batches", "0.5"], "--trainer.limit_val_batches: 0.5 leaves no batch of the 1"),
        (["--trainer.overfit_batches", "0.2"], "--trainer.overfit_batches: 0.2 leaves no batch of the 3"),
        (["--trainer.overfit_batches", "2.0"], "--trainer.overfit_batches: 2.0 must be a share"),
        (
            ["--trainer.check_val_every_n_epoch", "1", "--trainer.val_check_interval", "4"],
            "--trainer.val_check_interval: 4 is more than the 3 batches of an epoch",
        ),
        (["--trainer.strategy", "fsdp"], "`fsdp` requires a GPU accelerator"),
        (["--trainer.precision", "16-true"], "--trainer.precision: 16-true has float16 weights"),
        (["--trainer.precision", "transformer-engine"], "transformer_engine"),
        (["--trainer.barebones", "true"], "barebones=True, log_every_n_steps=1"),
    ],
)
def test_refused_by_name_before_there_is_a_run(capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    assert said in refused(capsys, *args)


def test_a_limit_of_another_command(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_steps", "1")
    args = ["--ckpt_path", "last", "--trainer.limit_test_batches", "0.5"]
    assert "--trainer.limit_test_batches: 0.5 leaves no batch" in refused(capsys, *args, command="test")


def test_a_timer_ends_a_run_which_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its interval is an enumeration, which the configuration has to hold as text."""
    timer = ["--trainer.callbacks+", "Timer", "--trainer.callbacks.duration"]
    fit(*timer, "00:00:00:00", "--trainer.max_steps", "4")
    assert "interval: step" in Path("runs/version_0/config.yaml").read_text()
    fit(*timer, "01:00:00:00", "--trainer.max_steps", "4", "--trainer.default_root_dir", "whole")
    main(["fit", "--config", "whole/version_0/config.yaml", "--trainer.default_root_dir", "again"])
    assert last("whole")["global_step"] == 4 and equal(last("whole")["state_dict"], last("again")["state_dict"])


@pytest.mark.parametrize("accumulation", ["1", "2"])
def test_overfit_batches_and_resume(accumulation: str) -> None:
    args = ["--trainer.overfit_batches", "2", "--trainer.accumulate_grad_batches", accumulation, *EVERY_EPOCH]
    fit(*args, "--trainer.default_root_dir", "whole")
    fit(*args, "--trainer.max_steps", "3")
    fit(*args, "--resume")
    assert equal(last("whole")["state_dict"], last("runs", 1)["state_dict"])
    assert equal(last("whole")["optimizer_states"], last("runs", 1)["optimizer_states"])


@pytest.mark.parametrize(
    ("end", "status", "step"),
    [
        (EndAt("stop", 3), None, 4),
        (EndAt("SIGTERM", 2, "validation"), 143, 2),
        (EndAt("SIGTERM", 4, "after"), 143, 5),
    ],
    ids=["a callback stops it", "a signal in a validation", "a signal"],
)
def test_averaged_weights_and_resume(end: EndAt, status: int | None, step: int) -> None:
    """`state_dict` is the average and `current_model_state` what is trained: both as in a run that never stopped."""
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "global_step")
    fit(*AVERAGED, "--trainer.default_root_dir", "whole")
    stopped = [*AVERAGED, *with_callback(EndAt, **vars(end))]
    if status is None:
        fit(*stopped)
    else:
        with pytest.raises(SystemExit) as ended:
            fit(*stopped)
        assert ended.value.code == status
    saved = last("runs")
    assert saved["global_step"] == step
    assert not equal(saved["state_dict"], saved["current_model_state"]), "the raw weights are kept"
    fit(*AVERAGED, "--resume")
    for name in names:
        assert equal(last("whole")[name], last("runs", 1)[name]), name


def test_averaging_leaves_the_training_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    fit(*AVERAGED, "--trainer.default_root_dir", "averaged")
    assert equal(last("runs")["state_dict"], last("averaged")["current_model_state"])
    said = refused(capsys, "--ckpt_path", "averaged/version_0/checkpoints/last.ckpt", "--trainer.max_steps", "9")
    assert "--ckpt_path: the checkpoint is of a training with weight averaging" in said


def test_averages_begin_with_the_weights_and_shapes_that_training_does() -> None:
    """Lightning copies the module before the shapes are computed from the boxes."""
    fit(*AVERAGED, "--trainer.callbacks.update_starting_at_step", "100", "--model.anchors.init", "kmeans")
    checkpoint = last("runs")
    log_wh, initial = (
        next(value for name, value in checkpoint["state_dict"].items() if name.endswith(f".{end}"))
        for end in ("log_wh", "initial_log_wh")
    )
    assert torch.equal(log_wh, initial) and (initial > 1).all(), "and not a pixel wide"


def test_another_accumulation_than_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "1")
    args = ["--ckpt_path", "last", "--trainer.accumulate_grad_batches"]
    assert "the checkpoint was made with 2, this run has 1" in refused(capsys, *args, "1")
    said = refused(capsys, *args, "2", "--data.num_train", "10")
    assert "--data.batch_size: an epoch of the checkpoint has 3 batches and one of this run 5" in said


@pytest.mark.parametrize(
    ("args", "tries"),
    [([], True), (["--trainer.deterministic", "true"], False), (["--trainer.benchmark", "false"], False)],
    ids=["default", "deterministic", "given"],
)
def test_cudnn_tries_its_algorithms(args: list[str], tries: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not tries)
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        fit("--trainer.max_steps", "1", "--trainer.limit_val_batches", "0", *args)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    assert torch.backends.cudnn.benchmark == tries


def test_a_logger_class_without_options() -> None:
    fit("--trainer.logger", "lightning.pytorch.loggers.logger.DummyLogger", "--trainer.max_steps", "1")
    assert Path("runs/version_0/checkpoints/last.ckpt").exists()


def test_without_checkpoints(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fit("--trainer.enable_checkpointing", "false", "--trainer.max_steps", "1")
    assert "No checkpoint is written, so the run cannot be resumed." in caplog.text
    assert Path("runs/version_0/anchors.csv").exists() and not list(Path().rglob("*.ckpt"))


def test_barebones_leaves_nothing() -> None:
    unset = ("log_every_n_steps", "num_sanity_val_steps", "enable_progress_bar", "enable_model_summary")
    cli = main([*ARGS, "--trainer.barebones", "true", *(f"--trainer.{option}=null" for option in unset)])
    assert cli.trainer.global_step == 6 and not list(Path().iterdir())


@pytest.mark.parametrize(
    "where",
    [
        ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "mine"],
        ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "mine", "--trainer.logger.name", "trial"],
        ["--checkpoint.dirpath", "mine"],
    ],
)
def test_runs_elsewhere_are_found(where: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fit(*where, "--trainer.max_steps", "1")
    (saved,) = Path("mine").rglob("last.ckpt")
    fit(*where, "--trainer.max_steps", "2", "--resume")
    assert f"resume: the run goes on from {saved}." in caplog.text
    for command in ("fit", "validate"):
        cli = main([command, *ARGS[1:], *where, "--ckpt_path", "last"])
        assert Path(cli.config[command].ckpt_path).is_relative_to("mine")
