"""Every notebook, executed on a tiny run; and stored with the figures of its present code."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from anchor_lightning.cli import main
from tests.helpers.made_data import make_voc
from tests.helpers.tiny_training import SYNTHETIC

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
PICTURES = {"learned_anchors": 5, "initialisations": 4, "your_dataset": 2}
SMALLER = {
    "TRAINING_IMAGE_SIZE = 160": "TRAINING_IMAGE_SIZE = 96",
    "num_train=200": "num_train=8",
    "num_val=50": "num_val=1",
    "num_val=20": "num_val=1",
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["anchor_lightning"])
        main(["fit", *SYNTHETIC, "--anchor_logger.every_n_steps", "1", "--anchor_logger.animation", "false"])
    return folder / "runs" / "version_0"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN", str(run_folder))
    monkeypatch.setenv("STEPS", "15")
    monkeypatch.setenv("TRAINING_STEPS", "1")
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("DATA", str(make_voc(tmp_path / "data")))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for size, small in SMALLER.items():
            cell.source = cell.source.replace(size, small)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert count_pictures(notebook) == PICTURES[path.stem]


def count_pictures(notebook: nbformat.NotebookNode) -> int:
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    return sum("image/png" in output["data"] for output in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_with_the_figures_of_its_present_code(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    execute = importlib.import_module("execute")
    notebook = nbformat.read(path, as_version=4)
    stored = notebook.metadata[execute.KEY]["code"]
    assert stored == execute.code_hash(notebook), "run python notebooks/execute.py --data FOLDER"
    assert count_pictures(notebook) == PICTURES[path.stem]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.get("name") == "stderr" or output.output_type == "error" for output in outputs)
    assert path.stat().st_size < 1_000_000
