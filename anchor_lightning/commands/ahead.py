"""Work in threads while the caller does something else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int, distance: int) -> Iterator[Result]:
    """The results of a function in the order of its items, computed in threads before they are asked for.

    Args:
        function: What is computed; what it raises is raised in the place of the result.
        items: Taken by the caller's own thread.
        threads: How many items are worked on at once; with 1 they are done in order.
        distance: How many items are begun before their results are taken, at most.
    """
    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        try:
            for item in items:
                begun.append(executor.submit(function, item))
                if len(begun) > distance:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
