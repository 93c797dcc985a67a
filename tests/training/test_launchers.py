"""A launcher's number of processes against the trainer's, as the environment tells it, and once in earnest."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer

from anchor_lightning.training.launchers import Launch, check_launcher, describe, launched, started_by_lightning
from tests.helpers.launching import LAUNCHERS, run, torchrun_variables

TORCHRUN = {"WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "0", "RANK": "0"}
BATCH_SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "voc", "SLURM_NTASKS": "4"}
SRUN = {**BATCH_SCRIPT, "SLURM_STEP_ID": "0"}
STEP = {**SRUN, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (TORCHRUN, Launch("torchrun", 4)),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, Launch("torchrun", 4, 2)),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, Launch("torchrun", 4)),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Launch("The launcher (WORLD_SIZE)", 4)),
        ({"WORLD_SIZE": "4", "RANK": "1"}, None),  # a cluster's count of machines
        (MPIRUN, Launch("MPI (OMPI_COMM_WORLD_SIZE)", 4, 1)),
        ({"PMI_SIZE": "6", "MPI_LOCALNRANKS": "2"}, Launch("MPI (PMI_SIZE)", 6, 3)),
        (SRUN, Launch("srun", 4)),
        (STEP, Launch("srun", 4, 2)),
        (STEP | {"PMI_SIZE": "4"}, Launch("srun", 4, 2)),
        # A step in a job of four tasks, of which it takes one.
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, Launch("srun", 1, 1)),
        # A batch script, and shells, `srun --pty bash` among them, which start nothing by themselves.
        (BATCH_SCRIPT, None),
        (STEP | {"SLURM_JOB_NAME": "bash", "PMI_SIZE": "4"}, None),
        (STEP | {"SLURM_JOB_NAME": "interactive"}, None),
        # One inside the other: the inner launcher counts.
        (STEP | TORCHRUN | {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, Launch("torchrun", 16, 2)),
        (STEP | MPIRUN | {"OMPI_COMM_WORLD_SIZE": "8"}, Launch("MPI (OMPI_COMM_WORLD_SIZE)", 8, 2)),
    ],
)
def test_what_the_environment_says(variables: dict[str, str], expected: Launch | None) -> None:
    assert launched(variables) == expected


def test_started_by_lightning() -> None:
    assert started_by_lightning({"LOCAL_RANK": "1", "WORLD_SIZE": "2"})
    for launcher in ({"TORCHELASTIC_RUN_ID": "x"}, {"SLURM_STEP_ID": "0"}):  # which count their own
        assert not started_by_lightning({"LOCAL_RANK": "1"} | launcher)
    assert not started_by_lightning({}) and not started_by_lightning({"LOCAL_RANK": "0"})


def test_a_number_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"WORLD_SIZE .*'two'"):
        launched({"WORLD_SIZE": "two", "LOCAL_RANK": "0"})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, r"torchrun started 4 .* make 1 .* devices 2, num_nodes 2 .* ddp"),
        (STEP | {"SLURM_NTASKS_PER_NODE": "2"}, r"srun started 4 .* make 1 .*devices 2, num_nodes 2 "),
        (MPIRUN, r"OMPI_COMM_WORLD_SIZE\) started 4 .* make 1 .*devices 4, num_nodes 1 .* install mpi4py"),
        ({"PMI_SIZE": "4"}, r"PMI_SIZE\) started 4 .* make 1 .*product must be 4\) and strategy ddp"),
    ],
)
def test_one_process_of_many_is_rejected(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    monkeypatch.setattr("anchor_lightning.training.launchers.MPIEnvironment.detect", lambda: False)
    with patch.dict(os.environ, variables):
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        assert trainer.world_size == 1, "what makes it worth a check"
        with pytest.raises(ValueError, match=message):
            check_launcher(trainer)


def made_trainer(environment: Any, world_size: int, devices: int, nodes: int, accumulated: int = 1) -> Any:
    """What a trainer says of itself; a real one of several processes would wait for them."""
    strategy, batches = SimpleNamespace(cluster_environment=environment), {"accumulate_grad_batches": accumulated}
    return SimpleNamespace(strategy=strategy, world_size=world_size, num_devices=devices, num_nodes=nodes, **batches)


def test_options_that_follow_the_launcher_pass() -> None:
    check_launcher(made_trainer(None, 1, 1, 1))
    check_launcher(made_trainer(None, 4, 4, 1))  # Lightning starts them itself
    with patch.dict(os.environ, TORCHRUN):
        for devices, nodes in ((4, 1), (2, 2)):
            check_launcher(made_trainer(TorchElasticEnvironment(), 4, devices, nodes))
        # A world size that only repeats the launcher's.
        with pytest.raises(ValueError, match=r"torchrun started 4 .* make 2 "):
            check_launcher(made_trainer(TorchElasticEnvironment(), 4, 2, 1))
        del os.environ["TORCHELASTIC_RUN_ID"]
        check_launcher(made_trainer(None, 4, 1, 1))  # Ray: its strategy has the world size from Ray, and one device
    with patch.dict(os.environ, {**BATCH_SCRIPT, "SLURM_NTASKS_PER_NODE": "4"}):
        check_launcher(made_trainer(None, 1, 1, 1))  # tasks as a way to ask for cores
        with pytest.raises(ValueError, match=r"batch script started 1 .* make 4 .*`srun --ntasks-per-node 4`"):
            check_launcher(made_trainer(SLURMEnvironment(), 4, 4, 1))


@pytest.mark.parametrize(
    ("trainer", "batch_size", "line"),
    [
        ((1, 1, 1), 16, "1 process, global batch 16: 16 images a process, 1 batch a step"),
        ((2, 1, 2, 2), 64, "2 processes (2 nodes of 1), global batch 64: 32 images a process, 2 batches a step"),
        ((4, 4, 1), 4, "4 processes (1 node of 4), global batch 4: 1 image a process, 1 batch a step"),
        ((4, 1, 1), 8, "4 processes, global batch 8: 2 images a process, 1 batch a step"),  # Ray's nodes
    ],
)
def test_the_line_at_the_start(trainer: tuple[int, ...], batch_size: int, line: str) -> None:
    assert describe(made_trainer(None, *trainer), batch_size) == line


def test_torchrun_with_options_of_one_process_is_rejected_on_each(tmp_path: Path) -> None:
    """Each by itself: torchrun would end the second process when the first has failed."""
    args = ["fit", "--config", "synthetic.yaml", "--trainer.max_steps", "1"]
    for code, said in run(tmp_path / "run", args, *torchrun_variables()):
        assert code == 1
        assert "torchrun started 2 processes" in said and "devices 2, num_nodes 1" in said and "Traceback" not in said
    assert list((tmp_path / "run").iterdir()) == [], "nothing was written"
