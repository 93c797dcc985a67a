"""The page of speeds: what the scripts print is read, and what is behind a peer is named."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def test_the_page_names_what_is_behind_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, speed = load("turns", monkeypatch), load("speed", monkeypatch)
    slower = turns.ratio_line("a / b, width 1.0: ours", [3.0, 2.0, 4.0], "onnxruntime", [1.0, 2.0, 2.0])
    assert slower == "a / b, width 1.0: ours / onnxruntime: 2.00 [1.50, 2.50], 3 s / 2 s"
    lines = [slower, turns.ratio_line("c", [1.0], "lightnet", [4.0]), turns.ratio_line("d", [9.0], "before", [1.0])]
    loading = f"{'albumentations':44s}    180    150 images/s   1.25 (0.80 to 2.00)"
    item = f"{'training item with an affine warp':44s}    180    150 images/s   1.60 (1.25 to 2.00)"
    result = speed.read("\n".join([*lines, "", loading, item, "hotcoco is not installed"]))
    page = speed.page({"inference": result}, "Here.")
    assert "| a / b, width 1.0: ours | onnxruntime | 2.00 | 1.50 to 2.50 | 3 s / 2 s |" in page
    assert "| c | lightnet | 0.25 | 0.25 to 0.25 | 1 s / 4 s |" in page
    assert "| file to network | albumentations | 0.80 | 0.50 to 1.25 |  |" in page
    assert "| training item | training item with an affine warp | 0.62 | 0.50 to 0.80 |  |" in page
    behind = page.split("## Behind a peer")[1].split("##")[0]
    assert behind.split("\n\n")[1] == "- a / b, width 1.0: ours: 2.00 times as long as onnxruntime"
    assert "inference: hotcoco is not installed" in page


def test_every_script_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - {"turns", "speed", "data_loading_peers"}
    assert scripts - {"learnable_overhead"} == set(load("speed", monkeypatch).SCRIPTS)
