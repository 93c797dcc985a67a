from __future__ import annotations

from itertools import pairwise

import pytest

from anchor_lightning.anchors import clustering_weight_at, learning_rate_at, temperature_at
from anchor_lightning.errors import UserError


def test_the_papers_temperature() -> None:
    assert temperature_at(0, 2.0, 1500) == 2.0
    assert temperature_at(750, 2.0, 1500) == 1.0
    assert temperature_at(1499, 2.0, 1500) == pytest.approx(2 / 1500)
    assert temperature_at(1500, 2.0, 1500) == temperature_at(10_000, 2.0, 1500) == 0.0


def test_geometric_temperature() -> None:
    values = [temperature_at(step, 2.0, 100, "geometric") for step in range(101)]
    ratios = [after / before for before, after in pairwise(values[:-1])]
    assert max(ratios) == pytest.approx(min(ratios))
    assert values[0] == 2.0 and values[99] * ratios[0] == pytest.approx(0.01) and values[100] == 0.0


def test_the_papers_lambda() -> None:
    assert [clustering_weight_at(step, 1.0, 1500) for step in (0, 375, 1500, 9999)] == [1.0, 0.75, 0.0, 0.0]
    assert temperature_at(0, 2.0, 0) == 0.0 and clustering_weight_at(0, 1.0, 0) == 0.0, "no warm-up"


def test_the_papers_learning_rate_on_voc() -> None:
    rates = {0: 1e-4, 100: 1e-3, 15000: 1e-4, 27000: 1e-5}
    steps = (0, 99, 100, 14999, 15000, 26999, 27000, 29999)
    assert [learning_rate_at(step, rates) for step in steps] == [1e-4] * 2 + [1e-3] * 2 + [1e-4] * 2 + [1e-5] * 2
    with pytest.raises(UserError, match="cosine"):
        temperature_at(0, 2.0, 100, "cosine")  # type: ignore[arg-type]
