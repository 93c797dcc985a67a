"""Grids of trainings: what they run, and that a stopped one goes on."""

from __future__ import annotations

import csv
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from anchor_lightning.cli import main
from anchor_lightning.commands.configs import CONFIG_FOLDER
from anchor_lightning.commands.sweep import DONE, grid
from anchor_lightning.errors import UserError
from tests.helpers.tiny_training import QUIET, SMALL_BATCHES

pytestmark = pytest.mark.usefixtures("elsewhere")

TINY = [
    *(*SMALL_BATCHES, *QUIET, "--data.num_train=8", "--data.num_val=2", "--model.detector.width=0.1"),
    *("--soft_assignment.steps=2", "--anchor_logger.animation=false"),
]


class Training:
    """In the place of `subprocess.Popen`: a training in this process; with `stopped` SIGTERM comes at its end."""

    stopped = False

    def __init__(self, command: list[str], stdout: Any, stderr: Any) -> None:
        assert command[:3] == [sys.executable, "-m", "anchor_lightning"] and stdout is stderr
        self.args, self.log, self.status = command[3:], Path(stdout.name), 0

    def terminate(self) -> None:
        self.status = 128 + signal.SIGTERM

    def wait(self, timeout: float | None = None) -> int:
        try:
            main(self.args)
        except SystemExit as end:
            self.log.write_text(str(end.code))
            return 1
        if self.stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.status


class Ended:
    """In the place of `subprocess.Popen`: a training that has ended well by the time that a signal comes."""

    number = signal.SIGTERM

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.asked = False

    def terminate(self) -> None:
        """Comes too late."""

    def wait(self, timeout: float | None = None) -> int:
        if not self.asked:
            self.asked = True
            if self.number == signal.SIGINT:  # which a program in the background ignores
                raise KeyboardInterrupt
            os.kill(os.getpid(), self.number)
        return 0


def write_grid(path: Path, **changes: object) -> Path:
    content = {
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
    configurations = []
    for run in runs:
        with pytest.raises(SystemExit, match="0"):
            main([*run.args, "--print_config"])
        configurations.append(yaml.safe_load(capsys.readouterr().out)["model"])
    assert len({yaml.safe_dump(configuration) for configuration in configurations}) == points
    assert [c["anchors"]["learn"] for c in configurations] == [False, True] * (points // 2)
    starts = [(c["anchors"]["init"], c["anchors"]["num"]) for c in configurations[::2]]
    expected = [(init, None) for init in ("identical", "uniform", "yolov2-voc")]
    assert starts == (expected if name == "table1" else [("kmeans", num) for num in (3, 5, 7, 9)])


def test_names_args_and_seeds(tmp_path: Path) -> None:
    runs = grid(write_grid(tmp_path / "g.yaml"), [0, 1])
    names = [f"{init}-4-seed{seed}" for init in ("identical", "uniform") for seed in (0, 1)]
    assert [run.name for run in runs] == names
    assert runs[3].args == [
        *("fit", "--config", "synthetic.yaml", "--model.anchors.init=uniform", "--trainer.max_steps=4"),
        "--seed_everything=1",
    ]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([0.001, 0.01], ["0.001", "0.01"]),
        (["0.5", "1.5"], ["0.5", "1.5"]),
        (["init/kmeans.yaml", "mine.json"], ["kmeans", "mine"]),
        (["a/anchors.json", "b/anchors.json"], ["a_anchors.json", "b_anchors.json"]),
        ([[[10, 20]], [["a/b", 3]]], ["[[10, 20]]", "[[a_b, 3]]"]),
    ],
)
def test_names_of_values(tmp_path: Path, values: list[object], names: list[str]) -> None:
    runs = grid(write_grid(tmp_path / "g.yaml", parameters={"option": {"values": values}}), [0])
    assert [run.name for run in runs] == [f"{name}-seed0" for name in names]


def test_values_are_what_fit_reads(tmp_path: Path) -> None:
    values = [None, 1e-5, True, "word", [[1, None], "a/b"], {0: 0.001, 500: 1e-4}]
    texts = ["null", "1e-05", "True", "word", "[[1, null], a/b]", "{0: 0.001, 500: 0.0001}"]
    runs = grid(write_grid(tmp_path / "g.yaml", parameters={"option": {"values": values}}), [0])
    assert [run.args[3] for run in runs] == [f"--option={text}" for text in texts]


def test_options_behind_two_dashes(tmp_path: Path) -> None:
    """The grid wins over a configuration; other options win over one of the grid."""
    path = write_grid(tmp_path / "g.yaml", parameters={"config": {"value": "a.yaml"}, "model.anchors": {"value": "x"}})
    options = ["--trainer.max_steps=9", "--config", "b.yaml", "-c=c.yaml", "--model.anchors.num", "3"]
    (run,) = grid(path, [3], options)
    assert run.args[3:] == [
        *("--config", "b.yaml", "-c=c.yaml", "--config=a.yaml", "--model.anchors=x", "--seed_everything=3"),
        *("--trainer.max_steps=9", "--model.anchors.num", "3"),
    ]
    for option, advice in (
        ("--seed_everything=7", "give --seeds"),
        ("--trainer.default_root_dir", "give --output"),
        ("--model.anchors=y", r"change .*g\.yaml"),
        ("--model={anchors: y}", r"change .*g\.yaml"),
    ):
        with pytest.raises(UserError, match=rf"{option.partition('=')[0]}: the sweep sets .*; {advice}"):
            grid(path, [3], [option, "x"])


def test_results_are_found_below_a_run_or_missed_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("subprocess.Popen", Training)
    write_grid(tmp_path / "g.yaml", parameters={"trainer.max_steps": {"value": 2}})
    for output, options in (
        ("a", ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs"]),
        ("b", ["--trainer.limit_val_batches=0"]),
    ):
        main(["sweep", "--file=g.yaml", f"--output={output}", "--", *TINY, "--trainer.val_check_interval=2", *options])
    assert [line.split(",")[0] for line in Path("a/results.csv").read_text().splitlines()] == ["run", "2-seed0"]
    assert Path("a/2-seed0/lightning_logs/version_0/metrics.csv").exists()
    assert capsys.readouterr().out.count("No row for 2-seed0: ") == 1


def test_a_stopped_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the first training: it is passed on, and the second call resumes it and runs the others.

    One that fails does not keep the others from running, and what is done is left alone.
    """
    monkeypatch.setattr("subprocess.Popen", Training)
    monkeypatch.setattr(Training, "stopped", True)
    inits = {"model.anchors.init": {"values": ["identical", "nonsense", "uniform"]}}
    output, first = Path("runs/g"), Path("runs/g/identical-seed0")
    args = ["sweep", "--file", str(write_grid(tmp_path / "g.yaml", parameters=inits)), "--", *TINY]
    args += ["--trainer.val_check_interval=2", "--trainer.max_steps"]
    with pytest.raises(SystemExit, match="goes on from here"):
        main([*args, "2"])
    assert list(output.iterdir()) == [first] and not (first / DONE).exists()
    monkeypatch.setattr(Training, "stopped", False)
    with pytest.raises(SystemExit, match=r"1 of 3 trainings failed: nonsense-seed0; see log\.txt"):
        main([*args, "4"])
    assert "unknown 'nonsense'" in (output / "nonsense-seed0" / "log.txt").read_text()
    rows = list(csv.DictReader((output / "results.csv").open()))
    assert [(row["run"], row["step"]) for row in rows] == [("identical-seed0", "4"), ("uniform-seed0", "4")]
    assert all(float(row["val/map"]) >= 0 for row in rows)
    # The first went on from its checkpoint.
    steps = [{row["step"] for row in csv.DictReader(path.open())} for path in sorted(first.rglob("metrics.csv"))]
    assert steps == [{"0", "1", "2"}, {"2", "3", "4"}]
    write_grid(tmp_path / "g.yaml", parameters={"model.anchors.init": {"values": ["identical", "uniform"]}})
    assert main([*args, "4"]) == output / "results.csv" and not (first / "version_2").exists()
    with pytest.raises(SystemExit, match="identical-seed0: finished before, but with other options"):
        main([*args, "9"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_as_a_training_ends_stops_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("subprocess.Popen", Ended)
    monkeypatch.setattr(Ended, "number", number)
    write_grid(tmp_path / "g.yaml")
    with pytest.raises(SystemExit, match="goes on from here"):
        main(["sweep", "--file=g.yaml"])
    assert [str(path.parent) for path in Path("runs/g").rglob(DONE)] == ["runs/g/identical-4-seed0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayes"}, "method: grid"),
        ({"command": ["python", "train.py"]}, "'command' must be a list with fit"),
        ({"parameters": {"seed": {"min": 0, "max": 1}}}, "must have a list, 'values"),
        ({"parameters": {"seed": {"values": 5}}}, "must have a list, 'values"),
        ({"parameters": {"seed": {"values": "abc"}}}, "must have a list, 'values"),
        ({"parameters": {"seed": {"values": [1, 1]}}}, "the same folder"),
        ({"parameters": {"seed_everything": {"values": [1, 2]}}}, "the sweep sets seed_everything .*; give --seeds"),
    ],
)
def test_what_is_no_grid_raises(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_grid(tmp_path / "g.yaml", **changes)
    with pytest.raises(SystemExit, match=message):
        main(["sweep", "--file", "g.yaml"])
    with pytest.raises(SystemExit, match=r"--file table9\.yaml: no such file"):
        main(["sweep", "--file", "table9.yaml"])
    with pytest.raises(SystemExit, match="2"):  # no other command passes options on
        main(["export", "--ckpt_path", "x", "--", "--trainer.max_steps=2"])
    assert not (tmp_path / "runs").exists()
