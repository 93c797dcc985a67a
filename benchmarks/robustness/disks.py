"""Full disks, and folders that cannot be written."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch

from benchmarks.robustness.harness import Case
from benchmarks.robustness.images import encoded
from benchmarks.robustness.made import words, write

NEW_MOUNTS: Final = 0x00020000
PRIVATE: Final = 1 << 18 | 1 << 14
READ_ONLY: Final = 1
SMALL = "--trainer.default_root_dir=small"
WANDB = ("--config", "logger/wandb.yaml")


def mounted(place: str, options: str, read_only: bool = False) -> None:
    """Puts a file system in memory onto a folder, for this process alone, which ends with it.

    Raises:
        OSError: Only root may, and not in every container.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    path = Path(place)
    path.mkdir(exist_ok=True)
    private = libc.unshare(NEW_MOUNTS) or libc.mount(b"none", b"/", None, PRIVATE, None)
    flags = READ_ONLY if read_only else 0
    if private or libc.mount(b"tmpfs", str(path.resolve()).encode(), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {place}")


def can_mount(folder: str = "/tmp") -> bool:
    """Whether `mounted` works here; tried in a child."""
    child = os.fork()
    if child == 0:
        try:
            mounted(folder, "size=64k")
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def limited(kind: int, value: int) -> Callable[[], None]:
    """Sets a limit of the process and what it starts."""
    return lambda: resource.setrlimit(kind, (value, value))


def whole_checkpoints(place: str) -> Callable[[], str | None]:
    """Whether every checkpoint under a folder can be read: one that was cut off must not stay."""

    def check() -> str | None:
        for path in sorted(Path(place).rglob("*.ckpt")):
            try:
                torch.load(path, weights_only=True)
            except Exception:
                return f"{path.name} is there and cannot be read"
        return None

    return check


def last_checkpoint_stays(place: str) -> Callable[[], str | None]:
    """As `whole_checkpoints`, and that a last one is there."""
    return lambda: whole_checkpoints(place)() or (None if any(Path(place).rglob("last.ckpt")) else "no last.ckpt left")


def cases() -> list[Case]:
    """Full disks, and folders that cannot be written."""
    group, full = "Disks", "No space left|disk|cannot be written|File too large"
    cannot = "" if can_mount() else "needs root, to mount a small disk"

    def disk(size: str, read_only: bool = False) -> Callable[[], None]:
        return partial(mounted, "small", f"size={size}", read_only)

    every = "--checkpoint.every_n_train_steps=1"
    result = [
        Case(
            group,
            "a disk of 16 kB",
            "synthetic",
            words(SMALL),
            says=full,
            early=False,
            before=disk("16k"),
            after=whole_checkpoints("small"),
            skipped=cannot,
        ),
        Case(
            group,
            "a disk that the first checkpoint fills",
            "synthetic",
            words(SMALL),
            says=full,
            early=False,
            before=disk("1m"),
            after=whole_checkpoints("small"),
            skipped=cannot,
        ),
        Case(
            group,
            "a disk that the second checkpoint fills",
            "synthetic",
            words(SMALL, every, "--trainer.max_steps=4"),
            says=full,
            early=False,
            before=disk("11m"),
            after=last_checkpoint_stays("small"),
            skipped=cannot,
        ),
        Case(
            group,
            "a disk that the first checkpoint of a resumed run fills",
            "trained",
            words("--ckpt_path=data/last.ckpt", "--trainer.max_steps=4", SMALL),
            says=full,
            early=False,
            before=disk("1m"),
            after=whole_checkpoints("small"),
            skipped=cannot,
        ),
        Case(
            group,
            "a read-only disk",
            "synthetic",
            words(SMALL),
            says="small",
            early=False,
            before=disk("1m", True),
            skipped=cannot,
        ),
        Case(
            group,
            "no file may be larger than 100 kB",
            "synthetic",
            says=full,
            early=False,
            before=limited(resource.RLIMIT_FSIZE, 100_000),
            after=whole_checkpoints("runs"),
        ),
        Case(
            group,
            "no file may be larger than 1 kB",
            "synthetic",
            says=full,
            early=False,
            before=limited(resource.RLIMIT_FSIZE, 1000),
            after=whole_checkpoints("runs"),
        ),
        Case(
            group,
            "a run folder below a file",
            "voc",
            words("--trainer.default_root_dir=data/Annotations/t0.xml/runs"),
            says=r"t0\.xml",
        ),
        Case(
            group,
            "a run folder that is a file",
            "voc",
            words("--trainer.default_root_dir=data/Annotations/t0.xml"),
            says=r"t0\.xml",
        ),
        Case(group, "a run folder in /proc", "voc", words("--trainer.default_root_dir=/proc/runs"), says="/proc/runs"),
        Case(group, "a run folder of 300 letters", "voc", words("--trainer.default_root_dir=" + "x" * 300), says="xxx"),
        Case(
            group,
            "W&B's folder below a file",
            "voc",
            words(*WANDB, "--trainer.logger.init_args.save_dir=data/Annotations/t0.xml/w"),
            says=r"t0\.xml",
        ),
    ]
    makers: dict[str, tuple[tuple[str, ...], str]] = {
        "export --format darknet": (("export", "--format=darknet", "--ckpt_path=data/last.ckpt"), "small/x"),
        "predict --source": (("predict", "--source=data/image.png", "--ckpt_path=data/last.ckpt"), "small/x"),
    }
    for name, (command, output) in makers.items():
        for what, before in (("a disk of 16 kB", disk("16k")), ("a read-only disk", disk("1m", True))):
            result.append(
                Case(
                    group,
                    f"{name}: {what}",
                    "trained",
                    partial(_with_image, more=(f"--output={output}",)),
                    says="small",
                    command=command,
                    plain=True,
                    early=False,
                    before=before,
                    skipped=cannot,
                )
            )
        below = partial(_with_image, more=("--output=data/image.png/x",))
        result.append(
            Case(group, f"{name}: below a file", "trained", below, says="image.png", command=command, plain=True)
        )
    return result


def _with_image(data: Path, more: tuple[str, ...]) -> Sequence[str]:
    write(data / "image.png", encoded("PNG"))
    return more
