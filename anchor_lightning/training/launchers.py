"""How many processes a launcher has started, against how many the trainer's options make train together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from lightning.fabric.plugins.environments.mpi import MPIEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer

from anchor_lightning.data.sampler import per_rank_batch_size
from anchor_lightning.errors import UserError


class Launch(NamedTuple):
    """The launcher as users know it, its processes on all nodes, and its nodes where it says how many."""

    name: str
    processes: int
    nodes: int | None = None


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What started this process, as the environment says; None for a shell or a SLURM batch script.

    Raises:
        UserError: A variable that should be a number is none.
    """

    def number(name: str) -> int | None:
        value = environment.get(name)
        if value is not None and not value.isdecimal():
            raise UserError(f"The environment variable {name} must be a number of processes or nodes, got {value!r}.")
        return None if value is None else int(value)

    def launch(name: str, processes: int, here: int | None) -> Launch:
        return Launch(name, processes, processes // here if here and processes % here == 0 else None)

    # First: the others may have started it. LOCAL_RANK: a launcher like torchrun; WORLD_SIZE may count machines.
    if (size := number("WORLD_SIZE")) and ("TORCHELASTIC_RUN_ID" in environment or "LOCAL_RANK" in environment):
        name = "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "The launcher (WORLD_SIZE)"
        return launch(name, size, number("LOCAL_WORLD_SIZE"))
    if size := number("OMPI_COMM_WORLD_SIZE"):
        return launch("MPI (OMPI_COMM_WORLD_SIZE)", size, number("OMPI_COMM_WORLD_LOCAL_SIZE"))
    if "SLURM_JOB_ID" in environment:
        size = number("SLURM_STEP_NUM_TASKS") or ("SLURM_STEP_ID" in environment and number("SLURM_NTASKS")) or None
        if size is None or environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # Lightning's own exception
            return None  # PMI_SIZE is then srun's own as well
        return Launch("srun", size, number("SLURM_STEP_NUM_NODES"))
    if size := number("PMI_SIZE"):
        return launch("MPI (PMI_SIZE)", size, number("MPI_LOCALNRANKS"))
    return None


def started_by_lightning(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one that Lightning has started beside the first, which others wait for."""
    others = ("TORCHELASTIC_RUN_ID", "SLURM_STEP_ID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
    return environment.get("LOCAL_RANK", "0") != "0" and not any(name in environment for name in others)


def check_launcher(trainer: Trainer) -> None:
    """Raises a `UserError`, on every process, where the options do not make those of a launcher train together."""
    launch = launched()
    environment = getattr(trainer.strategy, "cluster_environment", None)
    in_batch_script = launch is None and isinstance(environment, SLURMEnvironment)
    if in_batch_script:
        launch = Launch("The SLURM batch script", 1)
    if launch is None:
        return
    # These repeat what the launcher says; what the options say is checked later, or never.
    repeats = isinstance(environment, TorchElasticEnvironment | SLURMEnvironment | MPIEnvironment)
    running = trainer.num_devices * trainer.num_nodes if repeats else trainer.world_size
    if running == launch.processes:
        return
    started = f"{launch.name} started {_count(launch.processes, 'process')}, but the options make {running} train"
    if in_batch_script:
        raise UserError(f"{started}: put `srun --ntasks-per-node {trainer.num_devices}` before the command.")
    why = "each process would train alone" if running == 1 else "they would wait for each other"
    options = f"devices (processes on a node), num_nodes (their product must be {launch.processes})"
    if launch.nodes is not None and launch.processes % launch.nodes == 0:
        options = f"devices {launch.processes // launch.nodes}, num_nodes {launch.nodes}"
    # Without mpi4py Lightning does not see MPI at all, whatever the options.
    unseen = launch.name.startswith("MPI") and not MPIEnvironment.detect()
    mpi = " and install mpi4py, through which Lightning talks to MPI" if unseen else ""
    raise UserError(f"{started}: {why}. Give the trainer {options} and strategy ddp{mpi}, or start {running}.")


def describe(trainer: Trainer, batch_size: int) -> str:
    """`2 processes (2 nodes of 1), global batch 64: 32 images a process, 2 batches a step`, for a global batch size.

    Raises:
        UserError: The batch does not divide among the processes.
    """
    world_size, nodes, devices = trainer.world_size, trainer.num_nodes, trainer.num_devices
    # Ray knows the nodes and Lightning does not.
    where = f" ({_count(nodes, 'node')} of {devices})" if 1 < world_size == nodes * devices else ""
    images = _count(per_rank_batch_size(batch_size, world_size), "image")
    batches = _count(trainer.accumulate_grad_batches, "batch")
    return f"{_count(world_size, 'process')}{where}, global batch {batch_size}: {images} a process, {batches} a step"


def _count(number: int, noun: str) -> str:
    ending = "" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number} {noun}{ending}"
