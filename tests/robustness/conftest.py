"""The command line on data that may be spoilt, made once."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from anchor_lightning.cli import main
from tests.helpers.bad_input import SYNTHETIC, CommandLine
from tests.helpers.made_data import make_brainwash, make_coco, make_voc, make_yolo

MOST_MEMORY = 8 * 2**30
"""Bytes that a case may take: an input that fills the memory must not take the machine with it."""


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Kind of data -> folder; `trained` holds the checkpoint `last.ckpt` of a finished training."""
    folder = tmp_path_factory.mktemp("templates")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setattr("sys.argv", ["anchor_lightning"])
        main(["fit", *SYNTHETIC, "--trainer.logger=false", f"--trainer.default_root_dir={folder / 'run'}"])
    (folder / "trained").mkdir()
    (checkpoint,) = (folder / "run").rglob("last.ckpt")
    checkpoint.rename(folder / "trained" / "last.ckpt")
    return {
        "voc": make_voc(folder / "voc") / "VOC2012",
        "coco": make_coco(folder / "coco"),
        "brainwash": make_brainwash(folder / "brainwash"),
        "yolo": make_yolo(folder / "yolo"),
        "trained": folder / "trained",
    }


@pytest.fixture
def command_line(
    request: pytest.FixtureRequest,
    templates: Mapping[str, Path],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
    elsewhere: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[CommandLine]:
    """In a folder of its own, without keys, with little memory."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, hard))
    yield CommandLine(getattr(request, "param", main), templates, capfd, caplog, recwarn)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
