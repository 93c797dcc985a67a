"""How freely the shapes of torchvision's detectors move: shared by the levels, and within bounds."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from anchor_lightning.detectors.torchvision.convert import freeze_anchors, make_anchors_learnable
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
    """The scale of a shape stays near those of its level; the ratio is free. Evaluation changes no parameter."""
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


@pytest.mark.parametrize("kind", ["fpn", "retinanet", "ssd"])
def test_bounds_hold_after_the_last_step_too(kind: str) -> None:
    """In all that reads the shapes: no training forward follows the last step of an optimizer."""
    model = make_detector(kind)
    shapes = make_anchors_learnable(model)
    shapes.constrain(bound_octaves=0.25)
    smallest = shapes.initial_wh.log().mean(1)[: shapes.num_per_level[0]].min().item()
    lowest = math.exp(smallest - 0.25 * math.log(2))
    with torch.no_grad():
        shapes.log_wh[0] -= torch.tensor([2.0, 1.0])
    scale = pytest.approx(lowest, rel=1e-5)
    assert shapes.wh[0].prod().sqrt() == scale and (shapes.wh[0, 1] / shapes.wh[0, 0]).log() == pytest.approx(
        (shapes.initial_wh[0, 1] / shapes.initial_wh[0, 0]).log().item() + 1, rel=1e-4
    )
    predicted = predictions_of(model)
    frozen = freeze_anchors(copy.deepcopy(model))
    assert same(predictions_of(frozen), predicted)
    generator = getattr(frozen, "rpn", frozen).anchor_generator
    if kind == "ssd":
        placed = generator._wh_pairs[0][0] * torch.tensor([128.0, 96.0])
    else:
        placed = generator.cell_anchors[0][0, 2:] - generator.cell_anchors[0][0, :2]
    assert placed.prod().sqrt() == scale
    (saved,) = (value for name, value in model.state_dict().items() if name.endswith("shapes.log_wh"))
    assert saved[0].mean().exp() == scale


def test_shared_shapes_meet_their_bounds_together() -> None:
    """The level that starts nearest to its bound stops the shapes of the same place on all levels."""
    model = make_detector("fpn")  # two levels of three shapes
    shapes = make_anchors_learnable(model, [[10, 10], [10, 10], [10, 10], [20, 20], [40, 40], [80, 80]])
    shapes.constrain(bound_octaves=1, share_levels=True)
    with torch.no_grad():
        shapes.log_wh += 5.0
    losses_of(model)
    factors = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    torch.testing.assert_close(shapes.wh / shapes.initial_wh, factors[:, None].expand(6, 2))
    with torch.no_grad():
        shapes.log_wh -= 5.0
    torch.testing.assert_close(shapes.wh / shapes.initial_wh, (1 / factors)[:, None].expand(6, 2))
    shapes.constrain(bound_octaves=1)
    torch.testing.assert_close(shapes.wh[3:].amin(1), torch.tensor([10.0, 10.0, 10.0]))


def test_constraints_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"bound_octaves: .*-1"):
        make_anchors_learnable(make_detector("retinanet")).constrain(bound_octaves=-1)
    for kind, levels in (("c4", r"\[9\]"), ("ssd", r"\[4, 6\]")):
        with pytest.raises(UserError, match=f"share_levels: .*{levels}"):
            make_anchors_learnable(make_detector(kind)).constrain(share_levels=True)
