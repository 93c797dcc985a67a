from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anchor_lightning.anchors import assign, critical_temperature
from anchor_lightning.anchors.assignment import Distance, similarity, soft_or_hard
from anchor_lightning.errors import UserError

WH = torch.tensor([[32.0, 32.0], [32.0, 96.0], [96.0, 96.0]])


def one_box(box: list[float]) -> tuple[Tensor, Tensor]:
    return torch.tensor([[box]]), torch.tensor([[True]])


def test_cell_is_the_one_with_the_centre() -> None:
    boxes, mask = one_box([60.0, 20.0, 80.0, 60.0])  # centre (70, 40) on a grid of 3 rows and 5 columns
    assignment = assign(WH.log(), boxes, mask, (3, 5), 32)
    assert assignment.cell.item() == 1 * 5 + 2
    torch.testing.assert_close(assignment.log_wh[0, 0], torch.tensor([20.0, 40.0]).log())
    boxes, mask = one_box([150.0, 86.0, 170.0, 106.0])  # centre (160, 96) on the far edge of a 160 x 96 image
    assert assign(WH.log(), boxes, mask, (3, 5), 32).cell.item() == 14


def test_hard_by_hand() -> None:
    # IoU of 30 x 60 with the shapes: 960/1872 = 0.51, 1800/3072 = 0.59, 1800/9216 = 0.20.
    boxes, mask = one_box([0.0, 0.0, 30.0, 60.0])
    delta = assign(WH.log(), boxes, mask, (3, 5), 32).delta[0, 0]
    assert delta.tolist() == [0, 1, 0]


def test_distances_can_disagree() -> None:
    log_wh = torch.tensor([[32.0, 32.0], [96.0, 96.0]]).log()
    box = torch.tensor([54.0, 54.0]).log()
    # IoU: 32²/54² = 0.351 against 54²/96² = 0.316; log distance: ln(54/32) = 0.523 against ln(96/54) = 0.575.
    assert similarity(box, log_wh, "iou").tolist() == pytest.approx([(32 / 54) ** 2, (54 / 96) ** 2])
    expected = [-2 * math.log(54 / 32) ** 2, -2 * math.log(96 / 54) ** 2]
    assert similarity(box, log_wh, "l2").tolist() == pytest.approx(expected, rel=1e-5)


def test_soft_by_hand() -> None:
    """Eq. 10 at T = 0.5 with distances 0.2 and 0.7: weights e^-0.4 and e^-1.4."""
    similarities = torch.tensor([-0.2, -0.7])
    expected = math.exp(-0.4) / (math.exp(-0.4) + math.exp(-1.4))
    assert soft_or_hard(similarities, 0.5).tolist() == pytest.approx([expected, 1 - expected])


@pytest.mark.parametrize("distance", ["iou", "l2"])
def test_identical_shapes_tie_to_the_lowest_index(distance: Distance) -> None:
    boxes, mask = one_box([0.0, 0.0, 30.0, 60.0])
    log_wh = torch.full((4, 2), 50.0).log()
    assert assign(log_wh, boxes, mask, (3, 5), 32, 0.0, distance).delta[0, 0].tolist() == [1, 0, 0, 0]
    assert assign(log_wh, boxes, mask, (3, 5), 32, 1.0, distance).delta[0, 0].tolist() == pytest.approx([0.25] * 4)


def test_soft_tends_to_hard() -> None:
    similarities = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(soft_or_hard(similarities, 2e-6), soft_or_hard(similarities, 0.0))


def test_has_no_gradient() -> None:
    log_wh = WH.log().requires_grad_()
    boxes, mask = one_box([0.0, 0.0, 30.0, 60.0])
    assert not assign(log_wh, boxes, mask, (3, 5), 32, 1.0).delta.requires_grad
    with pytest.raises(UserError, match="giou"):
        similarity(WH[0].log(), WH.log(), "giou")  # type: ignore[arg-type]


def test_critical_temperature_by_hand() -> None:
    # log w is ±1 with probability ½ each and log h = 0: variance 1, so T_c = 2.
    assert critical_temperature(torch.tensor([[math.e, 1.0], [1 / math.e, 1.0]])) == pytest.approx(2.0)
    with pytest.raises(UserError, match="are 1"):
        critical_temperature(torch.ones(1, 2))
