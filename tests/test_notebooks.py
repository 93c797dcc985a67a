"""Every notebook, executed on a tiny run, and stored without outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from anchor_lightning.cli import main
from tests.helpers.made_data import make_voc
from tests.helpers.tiny_training import QUIET, SMALL_BATCHES

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
ARGS = [
    *("--config", "synthetic.yaml", "--model.detector.width", "0.1", *QUIET, *SMALL_BATCHES),
    *("--data.num_train", "6", "--data.num_val", "2", "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"),
    *("--anchor_logger.every_n_steps", "1", "--anchor_logger.animation", "false"),
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["anchor_lightning"])
        main(["fit", *ARGS])
    return folder / "runs" / "version_0"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN", str(run_folder))
    monkeypatch.setenv("STEPS", "60")
    monkeypatch.setenv("TRAINING_STEPS", "2")
    monkeypatch.setenv("DATA", str(make_voc(tmp_path / "data")))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    pictures = sum("image/png" in output["data"] for output in shown)
    assert pictures == {"learned_anchors": 5, "initialisations": 4, "your_dataset": 2}[path.stem]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
