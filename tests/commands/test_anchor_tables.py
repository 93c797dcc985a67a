"""The tables and the verdict of `anchors score`, by hand."""

from __future__ import annotations

import pytest
import torch

from anchor_lightning.commands.anchor_numbers import numbers_of
from anchor_lightning.commands.anchor_tables import anchor_table, best_text, usage_table, verdict_text
from anchor_lightning.fitting.formats import AnchorSet
from anchor_lightning.fitting.score import Verdict, score_shapes, size_groups

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_usage_by_size_and_class_by_hand() -> None:
    """Two shapes, given large first, and shown so."""
    anchors = AnchorSet(torch.tensor([[100.0, 100.0], [20.0, 20.0]]))
    boxes = torch.tensor([[20.0, 22.0], [30.0, 20.0], [90.0, 100.0], [200.0, 90.0]])
    score, classes = score_shapes(boxes, anchors.wh), torch.tensor([0, 2, 2, 2])
    table = usage_table(score, size_groups(boxes), classes, ["a", "none", "b"])
    assert table.splitlines()[0].endswith("boxes  anchor 0  anchor 1")
    assert [line.split() for line in table.splitlines()[1:]] == [
        [*["small,", "area", "below", "32²"], "2", "0.0%", "100.0%"],
        [*["medium,", "32²", "to", "96²"], "1", "100.0%", "0.0%"],
        [*["large,", "96²", "and", "more"], "1", "100.0%", "0.0%"],
        ["a", "1", "0.0%", "100.0%"],
        ["b", "3", "66.7%", "33.3%"],
    ]
    assert [line.split() for line in anchor_table(anchors, score).splitlines()] == [
        ["anchor", "width", "height", "usage"],
        ["0", "100.0", "100.0", "50.0%"],
        ["1", "20.0", "20.0", "50.0%"],
    ]


@pytest.mark.parametrize(("per_level", "levels", "num"), [((2,), 1, 2), ((1, 2), 2, 4), ((1, 4, 2), 3, 9)])
def test_the_advice_of_a_verdict_is_a_number_that_divides(per_level: tuple[int, ...], levels: int, num: int) -> None:
    """The levels of a set may have other numbers of shapes; those of `fit` have the same."""
    boxes = torch.tensor([[40.0, 40.0], [80.0, 80.0]])
    score = score_shapes(boxes, torch.full((sum(per_level), 2), 10.0))
    spread = f" --levels {levels}" if levels > 1 else ""
    poor = verdict_text(Verdict(covers=False, reachable=0.9, is_fitted=False), score, levels)
    assert poor.endswith(f"anchors fit --num {num}{spread}") and f"{sum(per_level)} shapes fitted" in poor
    more = verdict_text(Verdict(covers=False, reachable=0.9, is_fitted=True), score, levels)
    assert f"anchors fit --num {num}..{num + 8 * levels}{spread} shows" in more
    assert numbers_of(num, levels) == [num]


def test_the_best_of_several_sets_by_hand() -> None:
    """Boxes of 40 x 40 and 80 x 80; the shapes' IoU with them is 1 and 0.25, 1 and 0.4, twice 0.55, twice 1."""
    boxes = torch.tensor([[40.0, 40.0], [80.0, 80.0]])
    sets = {
        "one": [[40.0, 40.0]],
        "uneven": [[40.0, 40.0], [32.0, 80.0]],
        "even": [[22.0, 40.0], [44.0, 80.0]],
        "exact": [[40.0, 40.0], [80.0, 80.0]],
    }

    def best(*names: str) -> str:
        return best_text(names, [score_shapes(boxes, torch.tensor(sets[name])) for name in names], 4)

    assert best("even", "exact") == "Best: exact by mean best IoU; even and exact by BPR at IoU 0.5 and BPR at ratio 4"
    by_iou = "uneven by mean best IoU; even by BPR at IoU 0.5"
    assert best("uneven", "even") == f"Best: {by_iou}; uneven and even by BPR at ratio 4; the measures disagree"
    assert best("one", "exact").startswith("Best: exact (2 shapes) by mean best IoU and BPR at IoU 0.5; one (1 shape)")
    assert best("even", "even") == "Best: even and even by every measure"
