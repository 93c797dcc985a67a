"""Trains through the command line in a process of its own that something happens to: a signal, or an exception."""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

from anchor_lightning.cli import main
from anchor_lightning.task import DetectionTask


class Accident(Exception):
    """An error that nobody has foreseen."""


@dataclass(frozen=True)
class Event:
    """What happens to a run, and when.

    Args:
        step: Optimizer step.
        what: Signal number, or None for an exception.
        place: Before the forward pass of a batch, after it, or in a validation batch.
        batch: How many batches of the step went before; accumulation has several.
    """

    step: int
    what: int | None
    place: Literal["before", "after", "validation"] = "before"
    batch: int = 0


def fresh_processes() -> Any:
    """Starts processes from one that has imported everything and computed nothing; the one such server of all tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.killed_run"])
    return context


def train(folder: Path, args: list[str], event: Event | None = None, seconds: float = 300) -> int:
    """Exit status (minus the ending signal) of `anchor_lightning` with `args` in a folder; it prints to `log.txt`."""
    process = fresh_processes().Process(target=_train, args=(folder, args, event, dict(os.environ)))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError((folder / "log.txt").read_text()[-2000:])
    return process.exitcode


def _train(folder: Path, args: list[str], event: Event | None, variables: dict[str, str]) -> None:
    os.environ.clear()  # the server's, from when the first test began
    os.environ.update(variables)
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["anchor_lightning"]
    if event is not None:
        _arrange(event)
    main(args)


def _arrange(event: Event) -> None:
    name = "validation_step" if event.place == "validation" else "training_step"
    original = getattr(DetectionTask, name)
    batches = count()

    def happen() -> None:
        if event.what is None:
            raise Accident("the roof came down")
        os.kill(os.getpid(), event.what)

    def step(task: DetectionTask, *args: Any) -> Any:
        due = task.global_step == event.step and next(batches) == event.batch
        if due and event.place != "after":
            happen()
        result = original(task, *args)
        if due and event.place == "after":
            happen()
        return result

    setattr(DetectionTask, name, step)
