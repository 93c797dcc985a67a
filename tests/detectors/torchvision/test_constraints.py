"""How freely the shapes of torchvision's detectors move: shared by the levels, and within bounds."""

from __future__ import annotations

import math

import pytest
import torch

from anchor_lightning.detectors.torchvision.convert import make_anchors_learnable
from anchor_lightning.errors import UserError
from tests.helpers.made_detectors import losses_of, make_detector, make_targets, predictions_of, same


@pytest.mark.parametrize("kind", ["fpn", "retinanet"])
def test_shared_shapes_move_together(kind: str) -> None:
    """The gradient of a shape is the sum over its levels, and values stay those of the stock model."""
    model, shared = make_detector(kind), make_detector(kind)
    apart, together = make_anchors_learnable(model), make_anchors_learnable(shared)
    together.constrain(share_levels=True)
    targets = make_targets([[3.1, 7.3, 22.7, 24.2], [61.3, 30.9, 118.8, 92.4]], [[20.7, 10.3, 52.2, 81.9]])
    losses, losses_shared = losses_of(model, targets), losses_of(shared, targets)
    assert same([losses_shared], [losses])
    alone, gradient = (
        torch.autograd.grad(torch.stack(list(of.values())).sum(), shapes.log_wh)[0].view(2, -1, 2)
        for of, shapes in ((losses, apart), (losses_shared, together))
    )
    assert alone.flatten(1).any(1).all(), "the case must reach both levels"
    torch.testing.assert_close(gradient, alone.sum(0).expand_as(alone))


def test_a_forward_of_the_training_keeps_the_bounds() -> None:
    """The scale of a shape stays near those of its level; the ratio is free, and so is evaluation."""
    model = make_detector("retinanet")  # levels of scales 16 to 24 and 32 to 48
    shapes = make_anchors_learnable(model)
    shapes.constrain(bound_octaves=0.5)
    scales = shapes.wh.log().mean(1)
    lowest, highest = scales[:6].min() - math.log(2) / 2, scales[6:].max() + math.log(2) / 2
    with torch.no_grad():
        shapes.log_wh[0] += torch.tensor([1.0, -3.0])
        shapes.log_wh[11] += torch.tensor([2.0, 0.0])
        shapes.log_wh[5] += torch.tensor([0.1, 0.2])
    moved = shapes.log_wh.detach().clone()
    predictions_of(model)
    assert torch.equal(shapes.log_wh, moved)
    losses_of(model)
    torch.testing.assert_close(shapes.log_wh[0].mean(), lowest)
    torch.testing.assert_close(shapes.log_wh[11].mean(), highest)
    torch.testing.assert_close(shapes.log_wh.diff(dim=1), moved.diff(dim=1))
    torch.testing.assert_close(shapes.log_wh[1:11], moved[1:11])


def test_constraints_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"bound_octaves: .*-1"):
        make_anchors_learnable(make_detector("retinanet")).constrain(bound_octaves=-1)
    for kind, levels in (("c4", r"\[9\]"), ("ssd", r"\[4, 6\]")):
        with pytest.raises(UserError, match=f"share_levels: .*{levels}"):
            make_anchors_learnable(make_detector(kind)).constrain(share_levels=True)
