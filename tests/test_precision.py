"""The precision of a run on a CPU, with and without instructions for bf16, through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from anchor_lightning.cli import main, precision
from tests.helpers.made_data import make_voc
from tests.helpers.tiny_training import QUIET, SMALL_BATCHES

pytestmark = pytest.mark.usefixtures("elsewhere")

TINY = ["--model.detector.width", "0.1", "--model.anchors.init", "yolov2-voc", "--soft_assignment.start", "1.0"]
WORDS = ["--config", "small.yaml", *QUIET, *SMALL_BATCHES, *TINY]


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains with small.yaml on a processor with or without bf16; gives the precision of the run's configuration."""
    root, runs = make_voc(tmp_path / "set"), []

    def run(has_bf16: bool, *args: str, steps: int = 1) -> str:
        monkeypatch.setattr(precision, "has_bf16", lambda: has_bf16)
        words = [*WORDS, "--data.root", str(root), *args]
        words += ["--trainer.max_steps", str(steps), "--trainer.limit_val_batches", "0"]
        trained = main(["fit", *words, "--anchor_logger.animation", "false"]).trainer
        runs.append(yaml.safe_load((Path(trained.log_dir) / "config.yaml").read_text())["trainer"]["precision"])
        assert trained.precision == runs[-1] and trained.global_step == steps
        return runs[-1]

    return run


def test_float32_without_instructions_and_the_run_keeps_it(
    fit: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    assert fit(False) == "32-true"
    assert caplog.text.count("32-true in place of bf16-mixed, as this processor has no bf16 instructions") == 1
    # On a machine that has them: the newest run is one of the same configuration.
    assert fit(True, "--resume", steps=2) == "32-true"
    assert "the run goes on from" in caplog.text
    assert "32-true in place of bf16-mixed, in which the run was begun" in caplog.text
    last = Path("runs/version_1/checkpoints/last.ckpt")
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    validated = main(["validate", *WORDS, "--data.root", str(tmp_path / "set"), "--ckpt_path", str(last)])
    assert validated.trainer.precision == "32-true"
    assert precision.run_precision("gpu", "bf16-mixed", False, last) == "32-true", "on another device as well"
    assert precision.run_precision("gpu", "bf16-mixed", True, last) == "bf16-mixed"


def test_bf16_where_the_processor_has_it_and_the_run_keeps_it(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert fit(True) == "bf16-mixed" and "trainer.precision" not in caplog.text
    with pytest.warns(UserWarning, match="bf16-mixed is about ten times slower than 32-true"):
        assert fit(False, "--ckpt_path", "last", steps=2) == "bf16-mixed"


def test_the_command_line_is_taken_at_its_word(fit: Any) -> None:
    with pytest.warns(UserWarning, match="this processor has no bf16 instructions"):
        assert fit(False, "--trainer.precision", "bf16-mixed") == "bf16-mixed"


def test_a_run_in_another_precision_than_the_command_lines_is_another(
    fit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fit(False)
    assert fit(True, "--resume", "--trainer.precision", "bf16-mixed") == "bf16-mixed"
    assert "is of another run: trainer.precision is 32-true there and bf16-mixed here" in caplog.text


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_other_processors_are_not_asked(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert precision.run_precision(accelerator, "bf16-mixed", False, None) == "bf16-mixed"
    assert precision.run_precision("cpu", "bf16-mixed", False, None) == "32-true"
