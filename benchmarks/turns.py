"""What the benchmarks share: steps that take turns, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


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


def ratio_line(what: str, ours: Sequence[float], other: str, theirs: Sequence[float]) -> str:
    """A line that `speed.py` reads: how many times as long ours takes as another, by median and quartiles."""
    ratios = [mine / its for mine, its in zip(ours, theirs, strict=True)]
    first, median, third = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    seconds = statistics.median(ours), statistics.median(theirs)
    return f"{what} / {other}: {median:.2f} [{first:.2f}, {third:.2f}], {seconds[0]:.4g} s / {seconds[1]:.4g} s"
