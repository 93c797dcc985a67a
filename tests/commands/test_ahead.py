"""Work in threads while the caller does something else."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Timer

import pytest

from anchor_lightning.commands.ahead import ahead
from anchor_lightning.errors import UserError


def test_work_ahead_is_in_order_bounded_and_raises() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        if number == 9:
            raise UserError("nine")
        return 10 * number

    results = ahead(work, items(), threads=3, distance=4)
    assert [next(results) for _ in range(3)] == [0, 10, 20] and len(taken) == 7
    assert [next(results) for _ in range(6)] == [30, 40, 50, 60, 70, 80]
    with pytest.raises(UserError, match="nine"):
        next(results)
    assert len(taken) == 14 and list(ahead(str, range(3), threads=1, distance=9)) == ["0", "1", "2"]


def test_work_ahead_that_nobody_takes_is_not_begun() -> None:
    release, begun = Event(), list[int]()

    def work(number: int) -> None:
        begun.append(number)
        assert number == 0 or release.wait(60)

    results = ahead(work, range(9), threads=1, distance=4)
    next(results)
    Timer(1, release.set).start()  # after the end of the caller's work, which waits for what is begun
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert begun in ([0], [0, 1])
