"""What the benchmarks share: steps that take turns, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def take_turns(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each step, round by round after those that warm up; who is first changes."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(warm_up + rounds):
        for name in list(steps)[:: 1 if round_ % 2 else -1]:
            start = clock()
            steps[name]()
            seconds[name].append(clock() - start)
    return {name: values[warm_up:] for name, values in seconds.items()}
