"""The bar of a training and what is written beside it, as a terminal shows them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from anchor_lightning.cli import main
from tests.helpers.launching import environment
from tests.helpers.terminal import screen, screen_of
from tests.helpers.tiny_training import SYNTHETIC

FIT = [
    *("fit", *SYNTHETIC, "--trainer.max_steps", "7", "--trainer.val_check_interval", "2"),
    *("--anchor_logger.animation", "false", "--prediction_pictures.num_images", "0"),
    *("--trainer.enable_model_summary", "false", "--trainer.num_sanity_val_steps", "2"),
]
VALIDATED = r"step {} of 7: val/map 0\.\d{{4}}, val/map_50 0\.\d{{4}}, val/map_voc 0\.\d{{4}}; 0:\d\d:\d\d left"


def test_the_screen_of_a_text() -> None:
    assert screen("ab\rc\nlonger\x1b[Ax\r\n\x1b[2Kend", 4) == ["cb", "loxg", "end"]


@pytest.mark.parametrize("columns", [80, 140])
def test_a_training_in_a_terminal(tmp_path: Path, columns: int) -> None:
    command = [sys.executable, "-m", "anchor_lightning", *FIT, "--trainer.enable_progress_bar", "true"]
    lines = screen_of(command, tmp_path, environment() | {"TERM": "xterm"}, columns)
    text = "\n".join(lines)
    for step in (2, 4, 6):
        assert sum(bool(re.fullmatch(VALIDATED.format(step), line)) for line in lines) == 1, text
    (bar,) = [line for line in lines if line.startswith("Training")]
    assert re.search(r"100%.* 7/7 \[\d\d:\d\d<00:00, .*step/s", bar), text
    assert "v_num" not in text and "Epoch" not in text
    wide = "".join(line.ljust(columns) for line in lines)  # rows longer than the screen go on in the next line
    assert (
        "anchor  initial w  initial h  learned w" in text
        and "The run is in runs/version_0. Look at anchors.png there." in lines
    ), text
    for anchor in range(5):
        assert re.search(
            rf"     {anchor}(      1(?:59|60)\.\d){{2}}( +\d+\.\d+){{2}} +\d+\.\d%( +\d+\.\d+){{3}}", wide
        ), text


def test_a_log_file_has_the_lines_and_no_bar(
    elsewhere: None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    main([*FIT, "--trainer.enable_progress_bar", "true"])
    assert re.search(VALIDATED.format(4), caplog.text)
    assert "Training:" not in "".join(capsys.readouterr())
