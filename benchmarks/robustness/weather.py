"""What may go wrong around a run: no W&B, killed workers, signals, few open files, little memory."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.robustness.disks import WANDB, can_mount, limited, mounted
from benchmarks.robustness.harness import Case
from benchmarks.robustness.made import words, write

KEY: Final = "0123456789" * 4


def environment(**values: str | None) -> Callable[[], None]:
    """Sets variables; None takes one away."""

    def apply() -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return apply


def signalled(number: signal.Signals, worker: bool) -> Callable[[], None]:
    """Sends a signal to this process, or to its first worker, once the training has written its first values."""

    def wait_and_send() -> None:
        while not any(Path().glob("runs/version_*/metrics.csv")):
            time.sleep(0.05)
        while True:
            workers = [int(word) for f in Path("/proc/self/task").glob("*/children") for word in f.read_text().split()]
            if worker and workers:
                os.kill(max(workers), number)
                return
            if not worker:
                os.kill(os.getpid(), number)
                return
            time.sleep(0.01)

    return lambda: threading.Thread(target=wait_and_send, daemon=True).start()


def server(answer: bytes | None) -> Callable[[], None]:
    """A W&B server that takes connections and gives every request the same answer, or none, and a key for it."""

    def start() -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=50)
        environment(
            WANDB_MODE=None, WANDB_API_KEY=KEY, WANDB_BASE_URL=f"http://127.0.0.1:{listening.getsockname()[1]}"
        )()
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                connection, _ = listening.accept()
                held.append(connection)
                if answer is not None:
                    with suppress(OSError):
                        connection.recv(65536)
                        connection.sendall(answer)
                        connection.close()

        threading.Thread(target=serve, daemon=True).start()

    return start


def wandb_cases() -> list[Case]:
    """Keys, servers and folders of W&B."""
    group, offline = "Weights & Biases", "the run is logged offline"
    closed = "http://127.0.0.1:9"
    unauthorised = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    failing = unauthorised.replace(b"401 Unauthorized", b"500 Internal Server Error")
    befores: dict[str, tuple[Callable[[], None], str]] = {
        "no key": (environment(WANDB_MODE=None), f"No W&B key: {offline}"),
        "a key, a server's port that is closed": (
            environment(WANDB_MODE=None, WANDB_API_KEY=KEY, WANDB_BASE_URL=closed),
            f"cannot be reached: {offline}",
        ),
        "a key, a server's name that does not exist": (
            environment(WANDB_MODE=None, WANDB_API_KEY=KEY, WANDB_BASE_URL="http://nowhere.invalid"),
            offline,
        ),
        "a key, a proxy that is closed": (
            environment(WANDB_MODE=None, WANDB_API_KEY=KEY, WANDB_BASE_URL="http://example.invalid", http_proxy=closed),
            offline,
        ),
        "a netrc that is malformed": (_bad_netrc, f"No W&B key: {offline}"),
        "WANDB_MODE=disabled": (environment(WANDB_MODE="disabled"), ""),
        "WANDB_MODE=offline, no key": (environment(WANDB_MODE="offline"), ""),
    }
    result = [
        Case(group, what, "synthetic", words(*WANDB), "goes on", says, before=before)
        for what, (before, says) in befores.items()
    ]
    bad = {
        "a key, an address that is none": environment(WANDB_MODE=None, WANDB_API_KEY=KEY, WANDB_BASE_URL="hello"),
        "a WANDB_MODE that nobody knows": environment(WANDB_MODE="sometimes"),
        "a server that answers 401 (a wrong key)": server(unauthorised),
    }
    result += [
        Case(group, what, "synthetic", words(*WANDB), says="W&B|WANDB|wandb", early=False, before=before)
        for what, before in bad.items()
    ]
    result += [
        Case(
            group, "a server that answers 500", "synthetic", words(*WANDB), "goes on", offline, before=server(failing)
        ),
        Case(group, "a server that never answers", "synthetic", words(*WANDB), "goes on", offline, before=server(None)),
    ]
    return result


def _bad_netrc() -> None:
    write(Path("netrc"), "machine machine machine")
    environment(WANDB_MODE=None, NETRC="netrc")()


def process_cases() -> list[Case]:
    """Signals and limits of the process."""
    group, two = "Processes and limits", "--data.num_workers=2"
    long = ("--trainer.max_steps=400", "--trainer.val_check_interval=400", "--data.num_train=64")
    cannot = "" if can_mount() else "needs root, to mount a small disk"
    return [
        Case(
            group,
            "a data worker killed",
            "synthetic",
            words(two, *long),
            says="worker",
            early=False,
            before=signalled(signal.SIGKILL, True),
        ),
        Case(
            group,
            "SIGTERM",
            "synthetic",
            words(*long),
            early=False,
            before=signalled(signal.SIGTERM, False),
            exit_code=128 + signal.SIGTERM,
        ),
        Case(
            group,
            "SIGTERM, with workers",
            "synthetic",
            words(two, *long),
            early=False,
            before=signalled(signal.SIGTERM, False),
            exit_code=128 + signal.SIGTERM,
        ),
        Case(group, "Ctrl-C", "synthetic", words(*long), early=False, before=signalled(signal.SIGINT, False)),
        Case(
            group,
            "24 open files at most",
            "synthetic",
            ends="goes on",
            before=limited(resource.RLIMIT_NOFILE, 24),
        ),
        Case(
            group,
            "24 open files at most, two workers",
            "synthetic",
            words(two),
            says="open files|ulimit",
            early=False,
            before=limited(resource.RLIMIT_NOFILE, 24),
        ),
        Case(
            group,
            "10 open files at most",
            "synthetic",
            says="open files|ulimit",
            early=False,
            before=limited(resource.RLIMIT_NOFILE, 10),
        ),
        Case(
            group,
            "no shared memory for the workers",
            "synthetic",
            words(two),
            says="shared memory|shm",
            early=False,
            before=partial(mounted, "/dev/shm", "size=4k"),
            skipped=cannot,
        ),
        Case(
            group,
            "1 GB of memory more",
            "synthetic",
            words("--data.image_size=4096"),
            says="memory",
            early=False,
            before=_little_memory,
        ),
        Case(group, "no home folder", "synthetic", words(), "goes on", before=environment(HOME="/nowhere")),
        Case(
            group,
            "a terminal that knows ASCII only",
            "voc",
            words(),
            "goes on",
            before=environment(LC_ALL="C", PYTHONIOENCODING="ascii", COLUMNS="20"),
        ),
    ]


def _little_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limited(resource.RLIMIT_AS, used + 2**30)()


def cases() -> list[Case]:
    """All of them."""
    return wandb_cases() + process_cases()
