"""Two processes that evaluate together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

HARD_TIMEOUT = 120.0  # seconds for two processes to start and finish


def on_two_ranks(work: Callable[[int], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `work(rank)` returns on each of two ranks, through JSON; `work` is a function of a module."""
    # Forked: a spawned process would import torch and torchmetrics anew.
    context = mp.start_processes(_rank, (work, folder), nprocs=2, join=False, start_method="fork")
    deadline = time.monotonic() + HARD_TIMEOUT
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, "the two ranks hang"
    finally:
        for process in context.processes:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def _rank(rank: int, work: Callable[[int], dict[str, Any]], folder: Path) -> None:
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    dist.init_process_group("gloo", store, timedelta(seconds=60), world_size=2, rank=rank)
    (folder / f"{rank}.json").write_text(json.dumps(work(rank)))
    dist.destroy_process_group()
