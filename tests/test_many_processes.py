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
import torch.distributed.run as torchrun

from tests.helpers.launching import REPOSITORY, free_port, run, run_all, torchrun_variables, with_callback
from tests.helpers.made_data import make_coco
from tests.helpers.watch import Watch

QUIET = [
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary"),
    *("false", "--trainer.num_sanity_val_steps", "0", "--trainer.log_every_n_steps", "1", "--data.num_workers", "0"),
    *("--data.image_size", "64", "--model.detector.width", "0.1", "--anchor_logger.animation", "false"),
    *("--prediction_pictures.num_images", "0"),
]
# Augmented, and with the ends of both warm-ups, and of YOLOv2's prior after 12 steps, in it. What another order of sums
# does to float32 stays below 1e-6; at four times the rate it grows, where a float64 network stays below 1e-6.
STEPS = [
    *("fit", "--config", "synthetic.yaml", *QUIET, "--data.batch_size", "4", "--data.num_train", "64"),
    *("--model.anchors.init", "kmeans", "--data.augment", "true", "--model.learning_rate", "{0: 1.0e-3}"),
    *("--soft_assignment.steps", "16", "--clustering.steps", "16", "--model.detector.prior_images", "48"),
    *("--trainer.max_steps", "24", "--trainer.limit_val_batches", "0"),
    *with_callback(Watch, folder="watch", freeze_norms=True),
]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
TWO_NODES = ["--trainer.devices", "1", "--trainer.num_nodes", "2", "--trainer.strategy", "ddp"]


def steps(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((folder / "watch" / f"{rank}.json").read_text())
    return content


def assert_same_on_ranks(ranks: list[list[dict[str, Any]]]) -> None:
    """All parameters, shapes included, have the same bits on both ranks after every step, and change."""
    weights = [[step["weights"] for step in rank] for rank in ranks]
    assert weights[0] == weights[1] and len(set(weights[0])) == len(weights[0])


def state(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "runs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    weights: dict[str, torch.Tensor] = content["state_dict"]
    return weights


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one process trained."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    ((code, said),) = run(folder, STEPS)
    assert code == 0, said
    return folder


def assert_trains_as_alone(folder: Path, alone: Path) -> None:
    """The ranks' batches, taken in turn, are those of one process, pixel for pixel; so are the weights, to rounding."""
    ranks = [steps(folder, rank) for rank in range(2)]
    for whole, *shares in zip(steps(alone), *ranks, strict=True):
        for key in ("images", "pixels"):
            together = [item for items in zip(*(share[key] for share in shares), strict=True) for item in items]
            assert together == whole[key]
        assert sum(share["boxes"] for share in shares) == whole["boxes"]
    assert_same_on_ranks(ranks)
    assert [path.name for path in (folder / "runs").iterdir()] == ["version_0"], "one run, one folder"
    torch.testing.assert_close(state(folder), state(alone), rtol=0, atol=3e-6)


def test_lightnings_own_processes_train_as_one(tmp_path: Path, alone: Path) -> None:
    ((code, said),) = run(tmp_path / "run", [*STEPS, *TWO])
    assert code == 0, said
    assert_trains_as_alone(tmp_path / "run", alone)
    assert said.count("2 processes (1 node of 2), global batch 4: 2 images a process, 1 batch a step") == 1
    assert (tmp_path / "run" / "runs" / "version_0" / "anchors.png").exists()


def test_three_levels_train_as_one_process(tmp_path: Path) -> None:
    """YOLOv3's boxes belong to shapes of any level; within both warm-ups.

    On a backbone whose activations stay small where norms that have seen nothing are frozen, as DarkNet-53's do not.
    """
    pytest.importorskip("timm")
    args = [*STEPS, "--config", "detector/yolov3_small.yaml", "--data.image_size", "64", "--trainer.max_steps", "6"]
    args += ["--model.detector.width", "0.1", "--model.detector.backbone", "mobilenetv3_small_050"]
    for name, more in (("alone", []), ("run", TWO)):
        ((code, said),) = run(tmp_path / name, [*args, *more])
        assert code == 0, said
    assert_trains_as_alone(tmp_path / "run", tmp_path / "alone")


def test_two_nodes_of_torchrun_train_as_one_process(tmp_path: Path, alone: Path) -> None:
    args = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", free_port()]
    args += ["-m", "anchor_lightning", *STEPS, *TWO_NODES]
    ended = run(tmp_path / "run", args, *({"PET_NODE_RANK": rank} for rank in "01"), program=torchrun.main)
    assert [code for code, _ in ended] == [0, 0], ended
    assert_trains_as_alone(tmp_path / "run", alone)
    lines = ["2 processes (2 nodes of 1), global batch 4: 2 images a process, 1 batch a step" in s for _, s in ended]
    assert lines == [True, False], "said once, by rank zero"


def test_tasks_of_srun_train_as_one_process(tmp_path: Path, alone: Path) -> None:
    """Without SLURM: two processes with the variables that `srun --nodes 2 --ntasks-per-node 1` gives to each."""
    job = {"JOB_ID": "77", "JOB_NAME": "voc", "NTASKS": "2", "NTASKS_PER_NODE": "1", "NNODES": "2", "STEP_ID": "0"}
    job |= {"STEP_NUM_TASKS": "2", "STEP_NUM_NODES": "2", "NODELIST": "127.0.0.1", "LOCALID": "0"}
    port = free_port()
    tasks = [
        {"MASTER_PORT": port} | {f"SLURM_{name}": value for name, value in (job | {"PROCID": n, "NODEID": n}).items()}
        for n in "01"
    ]
    ended = run(tmp_path / "run", [*STEPS, *TWO_NODES], *tasks)
    assert [code for code, _ in ended] == [0, 0], ended
    assert_trains_as_alone(tmp_path / "run", alone)
    assert "2 processes (2 nodes of 1), global batch 4" in ended[0][1]


@pytest.mark.timeout(400)
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'ray[train]'")
def test_workers_of_ray_train_as_one_process(tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "scale.md").read_text(), re.DOTALL)
    (tmp_path / "ray_fit.py").write_text(script)
    # Absolute: Ray's workers stand in a folder of their own.
    args = [*STEPS[:-2], *with_callback(Watch, folder=str(tmp_path / "run" / "watch"), freeze_norms=True)]
    args += ["--trainer.default_root_dir", str(tmp_path / "run" / "runs"), "--config", "launcher/ray.yaml"]
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ((code, said),) = run_all(tmp_path / "run", [sys.executable, "../ray_fit.py", "2", "cpu", *args], seconds=350)
    assert code == 0, said
    assert_trains_as_alone(tmp_path / "run", alone)
    assert "2 processes, global batch 4: 2 images a process" in said


def test_live_batch_norms_empty_ranks_and_metrics(tmp_path: Path) -> None:
    """Eleven training images, of which two have boxes; validations of which the second rank has less, or nothing."""
    data = make_coco(tmp_path / "data", num=11)
    file = data / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in (4, 8)]
    file.write_text(json.dumps(content))
    common = ["--config", "coco.yaml", *QUIET[:-2], "--data.batch_size", "2", "--config", "logger/csv.yaml"]
    common += ["--model.score_threshold", "0", "--model.anchors.init", "[[12,18],[20,28]]"]
    folder = tmp_path / "run"

    def metrics(name: str, args: list[str], *variables: dict[str, str]) -> dict[str, str]:
        """Of the last validation, as written."""
        ended = run(folder, [*args, "--trainer.default_root_dir", name], *variables)
        assert not any(code for code, _ in ended), ended
        with (folder / name / "version_0" / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row.get("val/map")]
        return {key: value for key, value in rows[-1].items() if key.startswith("val/")}

    fit = ["fit", *common, "--data.root", str(data), "--trainer.max_steps", "6"]
    fit += ["--trainer.val_check_interval", "6", *with_callback(Watch, folder="watch", freeze_norms=False), *TWO]
    within_fit = metrics("fit", [*fit, "--prediction_pictures.num_images", "0"], *torchrun_variables())
    ranks = [steps(folder, rank) for rank in range(2)]
    assert_same_on_ranks(ranks)
    shares = {tuple(bool(step["boxes"]) for step in both) for both in zip(*ranks, strict=True)}
    assert shares >= {(True, False), (False, True), (False, False)}, "boxes on one rank only, and on none"

    validate = ["validate", *common, "--ckpt_path", "fit/version_0/checkpoints/last.ckpt", "--data.root"]
    assert metrics("eleven", [*validate, str(data)]) == within_fit, "with the batch norms of rank 0"
    assert float(within_fit["val/map_50"]) > 0
    one = [*validate, str(make_coco(tmp_path / "one", num=1))]
    of_one = metrics("one", one)
    assert metrics("one_on_two", [*one, *TWO], *torchrun_variables()) == of_one != within_fit
