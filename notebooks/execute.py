"""Executes the notebooks and stores them with their figures: python notebooks/execute.py --data FOLDER.

`learned_anchors` shows a short training on drawn scenes, which is made here, as do the pictures of README and site;
`your_dataset` shows the folder. Each notebook keeps the hash of its code, by which a test knows whether its figures are
those of its present code.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
KEY = "anchor_lightning"  # of a notebook's metadata
TRAINING = (
    *("fit", "--config", "synthetic.yaml", "--model.detector.width=0.1", "--trainer.enable_progress_bar=false"),
    # A slow warm-up, in which the shapes are likelier to find all modes.
    *("--soft_assignment.steps=300", "--clustering.steps=300", "--anchor_logger.every_n_steps=5"),
)
PICTURES = ("anchors.gif", "anchors.png")  # of this training, which the README and the site show
# Relative, so that no path of a machine gets into what is stored.
PLACES = {"RUN": "runs/version_0", "OUT": "out"}


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of the code cells, in their order."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def execute(path: Path, folder: str) -> None:
    """Runs one notebook in a folder and writes it back, without what its code wrote to stderr."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which would differ in every execution
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata[KEY] = {"code": code_hash(notebook)}
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """Trains the run that is shown, and executes all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set that `your_dataset` shows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= PLACES | {"PYTHONPATH": str(FOLDER.parent)}
        subprocess.run([sys.executable, "-m", "anchor_lightning", *TRAINING], cwd=folder, check=True)
        for picture in PICTURES:
            shutil.copy(Path(folder, PLACES["RUN"], picture), FOLDER.parent / "docs" / picture)
        name = args.data.resolve().name
        Path(folder, name).symlink_to(args.data.resolve())
        os.environ["DATA"] = name
        for path in sorted(FOLDER.glob("*.ipynb")):
            execute(path, folder)


if __name__ == "__main__":
    main()
