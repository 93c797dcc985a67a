"""Starting several processes in tests, with a hard limit after which nothing of them is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CLI = ["-m", "anchor_lightning"]
WORKERS_GRACE = 40.0  # seconds; torchrun gives its workers 30 before it kills them
# Lightning, torchrun and the rest are told apart by these: a test must not inherit them from what started it.
LAUNCHERS = ("WORLD_", "RANK", "LOCAL_", "GROUP_", "NODE_RANK", "MASTER_", "TORCHELASTIC_", "SLURM_", "OMPI_", "PMI_")


def environment() -> dict[str, str]:
    """This process's variables without those of launchers, for small processes that find this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return kept | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(REPOSITORY)}


def torchrun(*args: str) -> list[str]:
    """Arguments that start `args` (a script or `-m MODULE`, then its arguments) under torchrun."""
    return [sys.executable, "-m", "torch.distributed.run", *args]


def free_port() -> int:
    """A port on this machine that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_all(folder: Path, *commands: Sequence[str], seconds: float, **variables: str) -> list[tuple[int, str]]:
    """Exit code and output of commands that run at the same time; those that hang are ended with their children.

    Raises:
        AssertionError: They were not done in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [folder.with_name(f"{folder.name}.{index}.log") for index in range(len(commands))]
    started = []
    try:
        for command, output in zip(commands, outputs, strict=True):
            with output.open("w") as file:
                # A session of its own, so that the processes that Lightning starts can be killed with it.
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment() | variables,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            started.append(process)
        deadline = time.monotonic() + seconds
        for process in started:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                text = "\n".join(output.read_text()[-3000:] for output in outputs)
                raise AssertionError(f"not done after {seconds} s:\n{text}") from None
    finally:
        hanging = [process for process in started if process.poll() is None]
        for process in hanging:
            process.terminate()  # torchrun then ends its workers, which are in sessions of their own
        for process in hanging:
            with suppress(subprocess.TimeoutExpired):
                process.wait(WORKERS_GRACE)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return [(process.returncode, output.read_text()) for process, output in zip(started, outputs, strict=True)]
