"""Grids of trainings: what they run, and that a stopped one goes on."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from anchor_lightning.cli import main
from anchor_lightning.commands.configs import CONFIG_FOLDER
from anchor_lightning.commands.sweep import DONE, grid
from tests.helpers.tiny_training import QUIET, SMALL_BATCHES

pytestmark = pytest.mark.usefixtures("elsewhere")

TINY = [
    *SMALL_BATCHES,
    *QUIET,
    *("--data.num_train=8", "--data.num_val=2", "--model.detector.width=0.1", "--soft_assignment.steps=2"),
]


def write_grid(path: Path, **changes: object) -> Path:
    content = {
        "program": "anchor_lightning",
        "method": "grid",
        "parameters": {"model.anchors.init": {"values": ["identical", "uniform"]}, "trainer.max_steps": {"value": 4}},
        "command": ["${interpreter}", "-m", "anchor_lightning", "fit", "--config", "synthetic.yaml", "${args}"],
    }
    path.write_text(yaml.safe_dump(content | changes))
    return path


@pytest.mark.parametrize(("name", "points"), [("table1", 6), ("figure4", 8)])
def test_every_point_of_a_shipped_sweep_is_a_configuration(
    name: str, points: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each differs from the others, and Lightning's parser takes it."""
    runs = grid(CONFIG_FOLDER / "sweep" / f"{name}.yaml", [0])
    assert len(runs) == points
    configurations = []
    for run in runs:
        with pytest.raises(SystemExit) as stopped:
            main([*run.args, "--print_config"])
        assert stopped.value.code in (None, 0)
        configurations.append(yaml.safe_load(capsys.readouterr().out)["model"])
    assert len({yaml.safe_dump(configuration) for configuration in configurations}) == points
    assert [c["anchors"]["learn"] for c in configurations] == [False, True] * (points // 2)
    starts = [(c["anchors"]["init"], c["anchors"]["num"]) for c in configurations[::2]]
    expected = [(init, None) for init in ("identical", "uniform", "yolov2-voc")]
    assert starts == (expected if name == "table1" else [("kmeans", num) for num in (3, 5, 7, 9)])


def test_names_args_and_seeds(tmp_path: Path) -> None:
    runs = grid(write_grid(tmp_path / "g.yaml"), [0, 1])
    assert [run.name for run in runs] == [
        f"{init}-4-seed{seed}" for init in ("identical", "uniform") for seed in (0, 1)
    ]
    assert runs[3].args == [
        *("fit", "--config", "synthetic.yaml", "--model.anchors.init=uniform", "--trainer.max_steps=4"),
        "--seed_everything=1",
    ]


def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    """SIGTERM in the first training: it saves and ends; the second call resumes it and runs the other."""
    path = write_grid(tmp_path / "g.yaml", parameters={"model.anchors.init": {"values": ["identical", "uniform"]}})
    args = ["sweep", "--file", str(path), "--", *TINY, "--checkpoint.every_n_train_steps=4"]
    args += ["--trainer.val_check_interval=4", "--trainer.max_steps"]
    command = [sys.executable, "-m", "anchor_lightning", *args, "100000"]
    first = tmp_path / "runs" / "g" / "identical-seed0"
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while not list(first.rglob("checkpoints/last.ckpt")) and time.monotonic() < limit:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "the same command goes on from here" in err
    assert not (first / DONE).exists() and not (tmp_path / "runs" / "g" / "uniform-seed0").exists()
    (checkpoint,) = first.rglob("checkpoints/last.ckpt")
    last = str(torch.load(checkpoint, weights_only=True)["global_step"] // 4 * 4 + 8)
    again = subprocess.run(
        [*command[:-1], last], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert again.returncode == 0, again.stderr
    assert (first / "version_1").is_dir() and (first / DONE).exists()
    rows = list(csv.DictReader((tmp_path / "runs" / "g" / "results.csv").open()))
    assert [row["run"] for row in rows] == ["identical-seed0", "uniform-seed0"]
    assert all(float(row["val/map"]) >= 0 for row in rows)
    third = main([*args, last])
    assert third == Path("runs/g/results.csv")
    assert not (first / "version_2").exists(), "what is done is left alone"


def test_a_failing_training_does_not_keep_the_others(tmp_path: Path) -> None:
    path = write_grid(tmp_path / "g.yaml", parameters={"model.anchors.init": {"values": ["nonsense", "uniform"]}})
    with pytest.raises(SystemExit, match=r"1 of 2 trainings failed: nonsense-seed0; see log\.txt"):
        main(["sweep", "--file", str(path), "--output", "out", "--", *TINY, "--trainer.max_steps=2"])
    assert (tmp_path / "out" / "uniform-seed0" / DONE).exists()
    with pytest.raises(SystemExit, match="uniform-seed0: finished before, but with other options"):
        main(["sweep", "--file", str(path), "--output", "out", "--", *TINY, "--trainer.max_steps=3"])
    assert "unknown 'nonsense'" in (tmp_path / "out" / "nonsense-seed0" / "log.txt").read_text()


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SystemExit, match=r"--file table9\.yaml: no such file"):
        main(["sweep", "--file", "table9.yaml"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayes"}, "method: grid"),
        ({"command": ["python", "train.py"]}, "'command' must be a list with fit"),
        ({"parameters": {"seed": {"min": 0, "max": 1}}}, "must have 'values"),
        ({"parameters": {"seed": {"values": [1, 1]}}}, "the same folder"),
    ],
)
def test_what_is_no_grid_raises(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_grid(tmp_path / "g.yaml", **changes)
    with pytest.raises(SystemExit, match=message):
        main(["sweep", "--file", str(path)])
    assert not (tmp_path / "runs").exists()


def test_only_sweep_passes_options_on() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "--ckpt_path", "x", "--", "--trainer.max_steps=2"])
