"""Command lines in processes of their own, which cost no imports and may be killed, with a hard limit of time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from anchor_lightning.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
GRACE = 40.0  # seconds; torchrun gives its workers 30 before it kills them
# Lightning, torchrun and the rest are told apart by these: a test must not inherit them from what started it.
LAUNCHERS = ("WORLD_", "RANK", "LOCAL_", "GROUP_", "NODE_RANK", "MASTER_", "TORCHELASTIC_", "SLURM_", "OMPI_", "PMI_")


def fresh_processes() -> Any:
    """Starts processes from one that has imported everything and computed nothing; the one such server of all tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.launching"])
    return context


def environment() -> dict[str, str]:
    """This process's variables without those of launchers, for small processes that find this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return kept | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(REPOSITORY)}


def free_port() -> str:
    """A port on this machine that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def torchrun_variables() -> list[dict[str, str]]:
    """What torchrun gives to each of two processes on one machine."""
    common = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def with_callback(kind: type[Callback], **options: Any) -> list[str]:
    """Arguments that give `fit` a callback of the tests."""
    content = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": options}
    return ["--trainer.callbacks+", json.dumps(content)]


def run(
    folder: Path,
    args: Sequence[str],
    *variables: Mapping[str, str],
    program: Callable[..., object] = main,
    seconds: float = 200,
) -> list[tuple[int, str]]:
    """Exit status (minus the ending signal) and output of `program` with `args`, all processes at the same time.

    Args:
        folder: Where they run.
        args: Of the command line.
        variables: Environment variables of each process; one process without any.
        program: `main` of this project, or of torchrun.
        seconds: After these nothing of them is left.

    Raises:
        AssertionError: They were not done in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [folder.with_name(f"{folder.name}.{index}.log") for index in range(len(variables) or 1)]
    processes = [
        fresh_processes().Process(target=_run, args=(folder, args, program, environment() | own, output))
        for own, output in zip(variables or [{}], outputs, strict=True)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    hanging = [process for process in processes if process.exitcode is None]
    for process in hanging:
        process.terminate()  # torchrun then ends its workers, which are in sessions of their own
    for process in hanging:
        process.join(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    said = [output.read_text() for output in outputs]
    assert not hanging, f"not done after {seconds} s:\n" + "\n".join(text[-3000:] for text in said)
    return [(process.exitcode, text) for process, text in zip(processes, said, strict=True)]


def run_all(folder: Path, command: Sequence[str], seconds: float) -> list[tuple[int, str]]:
    """As `run`, for the path of a program and its arguments."""
    return run(folder, command, program=_execute, seconds=seconds)


def _execute() -> None:
    os.execv(sys.argv[1], sys.argv[1:])


def _run(
    folder: Path, args: Sequence[str], program: Callable[..., object], variables: Mapping[str, str], output: Path
) -> None:
    os.setsid()  # so that what Lightning starts can be killed with it
    os.environ.clear()  # the server's, from when the first test began
    os.environ.update(variables)
    os.chdir(folder)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # the default, where a child has that of its server
    sys.argv = ["anchor_lightning", *args]
    # DDP starts its other processes with `python -m` of this.
    sys.modules["__main__"].__spec__ = find_spec("anchor_lightning.__main__")
    program()
