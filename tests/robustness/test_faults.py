"""What may go wrong around a run: full disks, no W&B, killed workers, signals, few open files, little memory."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import torch
from PIL import Image

from anchor_lightning.cli import main
from tests.helpers.bad_input import ARGS, check_says
from tests.helpers.launching import fresh_processes

CANNOT_MOUNT: Final = 77
FIT = ("fit", *ARGS["synthetic"])
LONG = (*FIT, "--trainer.max_steps=400", "--trainer.val_check_interval=400", "--data.num_train=64")
WORKERS: Final = "--data.num_workers=2"
SMALL: Final = "--trainer.default_root_dir=small"
STEPWISE: Final = ("--checkpoint.every_n_train_steps=1", "--trainer.max_steps=4")
RESUMED: Final = ("--ckpt_path=data/last.ckpt", "--trainer.max_steps=4")
WANDB = (*FIT, "--config", "logger/wandb.yaml")
WANDB_BELOW_A_FILE: Final = "--trainer.logger.init_args.save_dir=data/image.png/w"
EXPORT: Final = ("export", "--format=darknet", "--ckpt_path=data/last.ckpt")
PREDICT: Final = ("predict", "--source=data/image.png", "--ckpt_path=data/last.ckpt")
FULL: Final = "no.space|disk|cannot.be.written|file.too.large"
KEY: Final = "0123456789" * 4
CLOSED: Final = "http://127.0.0.1:9"
UNAUTHORISED: Final = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
FAILING: Final = UNAUTHORISED.replace(b"401 Unauthorized", b"500 Internal Server Error")


def nothing() -> None:
    """No fault."""


def environment(**values: str) -> None:
    """Sets variables; an empty one is taken away."""
    for name, value in values.items():
        os.environ[name] = value
        if not value:
            del os.environ[name]


online = partial(environment, WANDB_MODE="", WANDB_API_KEY=KEY)


def mount(place: str, options: str, read_only: bool = False) -> None:
    """Puts a file system in memory onto a folder, for this process alone; only root may, and not in every container."""
    new_mounts, private = 0x00020000, 1 << 18 | 1 << 14
    libc = ctypes.CDLL(None, use_errno=True)
    Path(place).mkdir(exist_ok=True)
    failed = libc.unshare(new_mounts) or libc.mount(b"none", b"/", None, private, None)
    where = str(Path(place).resolve()).encode()
    if failed or libc.mount(b"tmpfs", where, b"tmpfs", int(read_only), options.encode()):
        sys.exit(CANNOT_MOUNT)


def limit(kind: int, value: int) -> None:
    """Sets a limit of the process and what it starts."""
    resource.setrlimit(kind, (value, value))


def limit_memory(more: int) -> None:
    """Bytes beside what the imports have."""
    limit(resource.RLIMIT_AS, int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more)


def send(number: signal.Signals, to_worker: bool = False) -> None:
    """Sends a signal to this process, or to its newest worker, once the training has written its first values."""

    def wait_and_send() -> None:
        workers: list[int] = []
        while not any(Path().glob("runs/version_*/metrics.csv")) or (to_worker and not workers):
            time.sleep(0.01)
            workers = [
                int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()
            ]
        os.kill(max(workers) if to_worker else os.getpid(), number)

    threading.Thread(target=wait_and_send, daemon=True).start()


def serve(answer: bytes) -> None:
    """A W&B server that gives every request the same answer, or none, and a key for it."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=50)
    online(WANDB_BASE_URL=f"http://127.0.0.1:{listening.getsockname()[1]}")
    held = []

    def accept() -> None:
        while True:
            connection, _ = listening.accept()
            held.append(connection)
            if answer:
                with suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()

    threading.Thread(target=accept, daemon=True).start()


def malformed_netrc() -> None:
    """No key can be read."""
    Path("netrc").write_text("machine machine machine")
    environment(WANDB_MODE="", NETRC="netrc")


OPEN_FILES = partial(limit, resource.RLIMIT_NOFILE)
FILE_SIZE = partial(limit, resource.RLIMIT_FSIZE)
DISK_16K, DISK_1M, DISK_11M = (partial(mount, "small", f"size={size}") for size in ("16k", "1m", "11m"))
READ_ONLY = partial(mount, "small", "size=1m", True)
# What happens, the command line, the exit code (-1: any but 0), what is said.
CASES: dict[str, tuple[Callable[[], None], tuple[str, ...], int, str]] = {
    "a disk of 16 kB": (DISK_16K, (*FIT, SMALL), -1, FULL),
    "a disk that the first checkpoint fills": (DISK_1M, (*FIT, SMALL), -1, FULL),
    "a disk that the second checkpoint fills": (DISK_11M, (*FIT, SMALL, *STEPWISE), -1, f"{FULL} whole:.*last.ckpt"),
    "a disk that a resumed run fills": (DISK_1M, (*FIT, SMALL, *RESUMED), -1, FULL),
    "a read-only disk": (READ_ONLY, (*FIT, SMALL), -1, "small"),
    "no file may be larger than 100 kB": (partial(FILE_SIZE, 100_000), FIT, -1, FULL),
    "no file may be larger than 1 kB": (partial(FILE_SIZE, 1000), FIT, -1, FULL),
    "W&B's folder below a file": (nothing, (*WANDB, WANDB_BELOW_A_FILE), -1, "image.png"),
    "export: a disk of 16 kB": (DISK_16K, (*EXPORT, "--output=small/x"), -1, "small"),
    "export: a read-only disk": (READ_ONLY, (*EXPORT, "--output=small/x"), -1, "small"),
    "export: below a file": (nothing, (*EXPORT, "--output=data/image.png/x"), -1, "image.png"),
    "predict: a disk of 16 kB": (DISK_16K, (*PREDICT, "--output=small/x"), -1, "small"),
    "predict: a read-only disk": (READ_ONLY, (*PREDICT, "--output=small/x"), -1, "small"),
    "predict: below a file": (nothing, (*PREDICT, "--output=data/image.png/x"), -1, "image.png"),
    "no key": (partial(environment, WANDB_MODE=""), WANDB, 0, "offline"),
    "a closed port": (partial(online, WANDB_BASE_URL=CLOSED), WANDB, 0, "offline"),
    "a name that does not exist": (partial(online, WANDB_BASE_URL="http://nowhere.invalid"), WANDB, 0, "offline"),
    "a closed proxy": (partial(online, WANDB_BASE_URL="http://x.invalid", http_proxy=CLOSED), WANDB, 0, "offline"),
    "a malformed netrc": (malformed_netrc, WANDB, 0, "offline"),
    "WANDB_MODE=disabled": (partial(environment, WANDB_MODE="disabled"), WANDB, 0, ""),
    "WANDB_MODE=offline, no key": (nothing, WANDB, 0, ""),
    "an invalid address": (partial(online, WANDB_BASE_URL="hello"), WANDB, -1, "W&B|wandb"),
    "an invalid WANDB_MODE": (partial(environment, WANDB_MODE="sometimes"), WANDB, -1, "W&B|wandb"),
    "a server that answers 401 (a wrong key)": (partial(serve, UNAUTHORISED), WANDB, 0, "401 offline"),
    "a server that answers 500": (partial(serve, FAILING), WANDB, 0, "offline"),
    "a server that never answers": (partial(serve, b""), WANDB, 0, "offline"),
    "a killed data worker": (partial(send, signal.SIGKILL, True), (*LONG, WORKERS), -1, "worker"),
    "SIGTERM": (partial(send, signal.SIGTERM), LONG, 128 + signal.SIGTERM, ""),
    "SIGTERM, with workers": (partial(send, signal.SIGTERM), (*LONG, WORKERS), 128 + signal.SIGTERM, ""),
    "Ctrl-C": (partial(send, signal.SIGINT), LONG, -1, ""),
    "24 open files": (partial(OPEN_FILES, 24), FIT, 0, ""),
    "24 open files, two workers": (partial(OPEN_FILES, 24), (*FIT, WORKERS), -1, "open.files|ulimit"),
    "10 open files": (partial(OPEN_FILES, 10), FIT, -1, "open.files|ulimit"),
    "no shared memory": (partial(mount, "/dev/shm", "size=4k"), (*FIT, WORKERS), -1, "shared.memory|shm"),
    "1 GB of memory more": (partial(limit_memory, 2**30), (*FIT, "--data.image_size=4096"), -1, "memory"),
    "no home folder": (partial(environment, HOME="/nowhere"), FIT, 0, ""),
    "a terminal that knows ASCII only": (partial(environment, LC_ALL="C", PYTHONIOENCODING="ascii"), FIT, 0, ""),
}


def run(before: Callable[[], None], args: tuple[str, ...], variables: Mapping[str, str], folder: Path) -> None:
    """The child: the command line after something has happened; then names the checkpoints, which must be whole."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["anchor_lightning"]
    before()
    try:
        main(list(args))
    finally:
        with suppress(OSError):  # no more files may be open
            for path in Path().rglob("*.ckpt"):
                torch.load(path, weights_only=True)
                print("whole:", path, flush=True)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "args", "code", "says"), CASES.values(), ids=CASES)
def test_fault(
    templates: Mapping[str, Path],
    tmp_path: Path,
    before: Callable[[], None],
    args: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(templates["trained"], folder / "data")
    Image.effect_noise((256, 256), 100).save(folder / "data" / "image.png")
    # No change of the folder here: the server of processes imports from where the tests were started.
    variables = {name: value for name, value in os.environ.items() if name not in ("WANDB_API_KEY", "WANDB_BASE_URL")}
    variables["WANDB_MODE"] = "offline"
    child = fresh_processes().Process(target=run, args=(before, args, variables, folder))
    child.start()
    child.join(240)
    output = folder.with_suffix(".log").read_text(errors="replace")
    if child.exitcode is None:
        child.kill()
        raise AssertionError(f"hangs:\n{output[-2000:]}")
    if child.exitcode == CANNOT_MOUNT:
        pytest.skip("only root can mount a small disk")
    assert child.exitcode == code or (code == -1 and child.exitcode > 0), output
    assert "Traceback" not in output
    check_says(output, says)
