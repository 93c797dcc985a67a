from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import wandb

from anchor_lightning.visualization.run_history import read_history

CSV = """step,train/loss,anchors/0/w,anchors/0/h,anchors/1/w,anchors/1/h,val/map
0,,10,20,30,40,
5,1.5,,,,,
50,,11,21,31,41,
50,1.2,,,,,0.25
"""


def test_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(CSV)
    history = read_history(tmp_path)
    assert history.steps.tolist() == [0, 50]
    assert history.wh.tolist() == [[[10, 20], [30, 40]], [[11, 21], [31, 41]]]
    assert history.scalars["train/loss"].tolist() == [[5, 1.5], [50, 1.2]]
    assert history.scalars["val/map"].tolist() == [[50, 0.25]]


def test_a_run_of_weights_and_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows have W&B's name for the step, and values that are no numbers."""
    rows = [
        {"trainer/global_step": 0, "anchors/0/w": 10.0, "anchors/0/h": 20.0, "anchors/figure": {"_type": "images"}},
        {"trainer/global_step": 50, "anchors/0/w": 11.0, "anchors/0/h": 21.0, "_runtime": 3},
    ]
    asked: list[str] = []
    api = SimpleNamespace(run=lambda path: asked.append(path) or SimpleNamespace(scan_history=lambda: iter(rows)))
    monkeypatch.setattr(wandb, "Api", lambda: api)
    history = read_history("me/anchors/abc123")
    assert asked == ["me/anchors/abc123"]
    np.testing.assert_array_equal(history.wh, [[[10, 20]], [[11, 21]]])
    assert "anchors/figure" not in history.scalars


def test_what_is_no_run_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics\.csv is missing"):
        read_history(tmp_path)
    with pytest.raises(ValueError, match="entity/project/run_id"):
        read_history("nowhere")
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1\n")
    with pytest.raises(ValueError, match="nothing of the shapes"):
        read_history(tmp_path)


def test_the_levels_of_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(CSV)
    assert read_history(tmp_path).num_per_level == ()
    (tmp_path / "anchors.json").write_text('{"per_level": [1, 1]}')
    assert read_history(tmp_path).num_per_level == (1, 1)
