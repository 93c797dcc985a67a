"""Several processes against one: the same batches, weights, shapes and metrics, however they are started."""

from __future__ import annotations

import csv
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from anchor_lightning.cli import main
from tests.helpers.launching import CLI, REPOSITORY, free_port, run_all, torchrun
from tests.helpers.made_data import make_coco

LIMIT = 200.0  # seconds, on a busy machine; a hang must not take the whole test run
QUIET = [
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary"),
    *("false", "--trainer.num_sanity_val_steps", "0", "--trainer.log_every_n_steps", "1", "--data.num_workers", "0"),
    *("--data.image_size", "64", "--model.detector.width", "0.1"),
]
FIT = ["--anchor_logger.animation", "false", "--prediction_pictures.num_images", "0"]
SCENES = ["--config", "synthetic.yaml", *QUIET, "--data.batch_size", "4", "--model.score_threshold", "0.0"]
# Augmented, and with the ends of both warm-ups, and of YOLOv2's prior after 12 steps, in it. What another order of sums
# does to float32 stays below 1e-6; at four times the rate it grows, where a float64 network stays below 1e-6.
STEPS = [
    *("fit", *SCENES, *FIT, "--model.anchors.init", "kmeans", "--data.augment", "true", "--data.num_train", "64"),
    *("--soft_assignment.steps", "16", "--clustering.steps", "16", "--model.learning_rate", "{0: 1.0e-3}"),
    *("--trainer.max_steps", "24", "--trainer.limit_val_batches", "0", "--model.detector.prior_images", "48"),
]
LIVE = ["fit", *SCENES, *FIT, "--model.anchors.init", "kmeans", "--data.num_train", "64", "--data.num_val", "9"]
LIVE += ["--trainer.max_steps", "12", "--trainer.val_check_interval", "6"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def watch(folder: str, freeze_norms: bool = False) -> list[str]:
    args = ["--trainer.callbacks+", "tests.helpers.watch.Watch", "--trainer.callbacks.folder", folder]
    return [*args, "--trainer.callbacks.freeze_norms", str(freeze_norms).lower()]


def steps(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    return json.loads((folder / f"{rank}.json").read_text())


def assert_same_batches(one: list[dict[str, Any]], ranks: list[list[dict[str, Any]]]) -> None:
    """The ranks' batches, taken in turn, are the batches of one process: the same images, pixel for pixel."""
    assert len(one) == len(ranks[0]) == len(ranks[1])
    for alone, *shares in zip(one, *ranks, strict=True):
        for key in ("images", "pixels"):
            together = [item for items in zip(*(share[key] for share in shares), strict=True) for item in items]
            assert together == alone[key]
        assert sum(share["boxes"] for share in shares) == alone["boxes"]


def assert_same_on_ranks(ranks: list[list[dict[str, Any]]]) -> None:
    """All parameters, shapes included, have the same bits on both ranks after every step, and change."""
    weights = [[step["weights"] for step in rank] for rank in ranks]
    assert weights[0] == weights[1] and len(set(weights[0])) == len(weights[0])


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def metrics(run: Path) -> dict[str, str]:
    """The last validation's metrics, as written."""
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/map")]
    return {key: value for key, value in rows[-1].items() if key.startswith("val/")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one process trained, watched in `watch`."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["anchor_lightning"])
        main([*STEPS, *watch("watch", freeze_norms=True)])
    return folder


def assert_trains_as_alone(folder: Path, alone: Path) -> None:
    ranks = [steps(folder / "watch", rank) for rank in range(2)]
    assert_same_batches(steps(alone / "watch"), ranks)
    assert_same_on_ranks(ranks)
    assert [path.name for path in (folder / "runs").iterdir()] == ["version_0"], "one run, one folder"
    two, one = (state(where / "runs" / "version_0") for where in (folder, alone))
    torch.testing.assert_close(two, one, rtol=0, atol=3e-6)


@pytest.mark.timeout(300)
def test_devices_and_nodes_train_as_one_process(tmp_path: Path, alone: Path) -> None:
    args = [*STEPS, *watch("watch", freeze_norms=True)]
    ((code, said),) = run_all(tmp_path / "ddp", [sys.executable, *CLI, *args, *TWO], seconds=LIMIT)
    assert code == 0, said
    assert_trains_as_alone(tmp_path / "ddp", alone)
    assert said.count("2 processes (1 node of 2), global batch 4: 2 images a process, 1 batch a step") == 1

    assert (tmp_path / "ddp" / "runs" / "version_0" / "anchors.png").exists()

    options = ["--trainer.devices", "1", "--trainer.num_nodes", "2", "--trainer.strategy", "ddp"]
    node = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    commands = [torchrun(*node, "--node-rank", str(rank), *CLI, *args, *options) for rank in range(2)]
    ended = run_all(tmp_path / "nodes", *commands, seconds=LIMIT)
    assert [code for code, _ in ended] == [0, 0], ended
    assert_trains_as_alone(tmp_path / "nodes", alone)
    lines = ["2 processes (2 nodes of 1), global batch 4: 2 images a process, 1 batch a step" in s for _, s in ended]
    assert lines == [True, False], "said once, by rank zero"
    torch.testing.assert_close(
        *(state(tmp_path / way / "runs" / "version_0") for way in ("ddp", "nodes")), rtol=0, atol=0
    )


@pytest.mark.timeout(300)
def test_tasks_of_srun_train_as_one_process(tmp_path: Path, alone: Path) -> None:
    """Without SLURM: two processes with the variables that `srun --nodes 2 --ntasks-per-node 1` gives to each."""
    job = ["SLURM_JOB_ID=77", "SLURM_JOB_NAME=voc", "SLURM_NTASKS=2", "SLURM_NTASKS_PER_NODE=1", "SLURM_NNODES=2"]
    job += ["SLURM_STEP_ID=0", "SLURM_STEP_NUM_TASKS=2", "SLURM_STEP_NUM_NODES=2", "SLURM_NODELIST=127.0.0.1"]
    job += [f"MASTER_PORT={free_port()}"]
    args = [*STEPS, *watch("watch", freeze_norms=True), "--trainer.num_nodes", "2", "--trainer.devices", "1"]
    tasks = [
        ["env", *job, f"SLURM_PROCID={task}", f"SLURM_NODEID={task}", "SLURM_LOCALID=0", sys.executable, *CLI, *args]
        for task in range(2)
    ]
    ended = run_all(tmp_path / "srun", *tasks, seconds=LIMIT)
    assert [code for code, _ in ended] == [0, 0], ended
    assert_trains_as_alone(tmp_path / "srun", alone)
    assert "2 processes (2 nodes of 1), global batch 4" in ended[0][1]


@pytest.mark.timeout(400)
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'anchor_lightning[ray]'")
def test_workers_of_ray_train_as_one_process(tmp_path: Path, alone: Path) -> None:
    folder = tmp_path / "ray"
    page = (REPOSITORY / "docs" / "scale.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "ray_fit.py").write_text(script)
    # Absolute: Ray's workers stand in a folder of their own.
    args = [*STEPS, "--trainer.default_root_dir", str(folder / "runs")]
    args += watch(str(folder / "watch"), freeze_norms=True)
    command = [sys.executable, "../ray_fit.py", "2", "cpu", *args, "--config", "launcher/ray.yaml"]
    ((code, said),) = run_all(folder, command, seconds=350, RAY_USAGE_STATS_ENABLED="0")
    assert code == 0, said
    assert_trains_as_alone(folder, alone)
    assert "2 processes, global batch 4: 2 images a process" in said


def make_few_boxes(root: Path) -> Path:
    """Twelve training images, of which two have boxes."""
    file = make_coco(root, num=12) / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in (3, 8)]
    file.write_text(json.dumps(content))
    return root


@pytest.mark.timeout(300)
def test_live_batch_norms_empty_ranks_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_few_boxes(tmp_path / "data")
    few = ["fit", "--config", "coco.yaml", *QUIET, *FIT, "--data.root", str(data), "--data.batch_size", "2"]
    few += ["--model.anchors.init", "uniform", "--trainer.max_steps", "6", "--trainer.limit_val_batches", "0"]
    few += ["--trainer.logger", "false"]
    checkpoint = str(tmp_path / "live" / "version_0" / "checkpoints" / "last.ckpt")
    rooted = ["--trainer.default_root_dir"]
    # The second rank gets no image, one, and one batch less than the first.
    validations = {
        number: ["validate", *SCENES, "--data.num_val", number, "--ckpt_path", checkpoint, *rooted, f"val_{number}"]
        for number in ("1", "2", "9")
    }
    lines = [
        [*LIVE, *rooted, "live", *watch("watch_live")],
        *validations.values(),
        [*few, *rooted, "few", *watch("watch_few")],
    ]
    (tmp_path / "lines.json").write_text(json.dumps([[*line, *TWO] for line in lines]))
    port = ["--nproc-per-node", "2", "--master-port", str(free_port())]
    script = Path(__file__).parent / "helpers" / "rank_script.py"
    ((code, said),) = run_all(tmp_path, torchrun(*port, str(script), "lines.json"), seconds=LIMIT)
    assert code == 0, said

    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    monkeypatch.setattr(sys, "argv", ["anchor_lightning"])
    for line in lines:
        main(line)
    for name in ("live", "few"):
        ranks = [steps(tmp_path / f"watch_{name}", rank) for rank in range(2)]
        assert_same_batches(steps(tmp_path / "one" / f"watch_{name}"), ranks)
        assert_same_on_ranks(ranks)
    shares = {tuple(bool(step["boxes"]) for step in both) for both in zip(*ranks, strict=True)}
    assert shares >= {(True, False), (False, True), (False, False)}, "boxes on one rank only, and on none"

    scores = {}
    for number in validations:
        scores[number], one = (
            metrics(folder / f"val_{number}" / "version_0") for folder in (tmp_path, tmp_path / "one")
        )
        assert scores[number] == one
    assert float(scores["9"]["val/map_50"]) > 0 and len({score["val/map"] for score in scores.values()}) > 1
    assert metrics(tmp_path / "live" / "version_0") == scores["9"], "within fit, with the batch norms of rank 0"
