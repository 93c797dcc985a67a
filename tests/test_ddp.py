"""Two processes on gloo, through the command line."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
# Three validation images for two ranks: the shares are uneven.
ARGS = [
    *("--config", "synthetic.yaml", "--model.detector.width", "0.1", "--model.anchors.init", "kmeans"),
    *("--data.batch_size", "4", "--data.num_workers", "0", "--data.num_train", "16", "--data.num_val", "3"),
    *("--data.image_size", "64", "--trainer.max_steps", "3", "--trainer.val_check_interval", "3"),
    *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
    *("--trainer.num_sanity_val_steps", "0", "--model.score_threshold", "0.001"),
    *("--anchor_logger.every_n_steps", "1", "--clustering.start", "1000"),
]


def run(folder: Path, *args: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(
        [sys.executable, "-m", "anchor_lightning", *args], cwd=folder, env=environment, timeout=280, check=True
    )


def shapes(path: Path) -> list[list[list[float]]]:
    """The shapes of anchors.csv, step by step."""
    steps: dict[str, list[list[float]]] = {}
    for row in rows(path):
        steps.setdefault(row["step"], []).append([float(row["w"]), float(row["h"])])
    return list(steps.values())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.timeout(600)
def test_two_processes(tmp_path: Path) -> None:
    run(tmp_path, "fit", *ARGS, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    trained = tmp_path / "runs" / "version_0"
    assert not (tmp_path / "runs" / "version_1").exists(), "one run, one folder"
    run(tmp_path, "validate", *ARGS, "--ckpt_path", "last")
    for key in ("val/map_50", "val/map", "val/map_voc07", "val/map_voc", "val/mar_100"):
        two, one = (
            [row[key] for row in rows(tmp_path / "runs" / f"version_{n}" / "metrics.csv") if row.get(key)]
            for n in (0, 1)
        )
        assert len(two) == 1 and two == one, f"{key} differs"

    run(tmp_path, "fit", *ARGS)
    two, one = (shapes(tmp_path / "runs" / f"version_{n}" / "anchors.csv") for n in (0, 2))
    assert two[0] == one[0], "k-means of rank 0 is the k-means of one process"
    # Eq. 11's N counts over both ranks, whatever their shares: the first step, which a huge λ leaves to the clustering
    # term, moves the shapes as one process does. (The localisation loss differs by the ranks' batch norms.)
    moves = [(torch.tensor(run_[1]) / torch.tensor(run_[0])).log() for run_ in (two, one)]
    assert float(moves[1].abs().max()) > 0.1
    torch.testing.assert_close(moves[0], moves[1], rtol=0.05, atol=0.01)
    assert (trained / "checkpoints" / "last.ckpt").exists() and (trained / "anchors.png").exists()
