"""The rule that the evidence compares with: shapes that move to their boxes, without the offsets."""

import importlib
import math
from pathlib import Path

import pytest
import torch

from anchor_lightning.detectors.torchvision.convert import CLUSTERING, make_anchors_learnable
from tests.helpers.made_detectors import BOX_LOSS, KINDS, losses_of, make_detector, same


@pytest.fixture
def use_own_rule(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "evidence"))
    return importlib.import_module("own_rule").use_own_rule


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_shape_of_a_box_moves_to_it_alone(kind, squared, use_own_rule):
    """One box: the nearest of its positive shapes has the gradient of its own distance, all others none."""
    model, stock = make_detector(kind), make_detector(kind)
    shapes = make_anchors_learnable(model)
    use_own_rule(model, squared)
    shapes.clustering_weight = 0.5
    width, height = 40.0, 28.0
    targets = [{"boxes": torch.tensor([[10.0, 12.0, 10 + width, 12 + height]]), "labels": torch.tensor([1])}] * 2
    losses = losses_of(model, targets)
    (of_box,) = torch.autograd.grad(losses[BOX_LOSS[kind]], shapes.log_wh, retain_graph=True, allow_unused=True)
    assert of_box is None
    (gradient,) = torch.autograd.grad(losses[CLUSTERING], shapes.log_wh)
    (moved,) = gradient.any(1).nonzero()[:, 0].tolist()
    distance = shapes.log_wh[moved].detach() - torch.tensor([math.log(width), math.log(height)])
    expected = 1.5 * distance if squared else distance.sign() + 0.5 * distance
    torch.testing.assert_close(gradient[moved], expected)
    losses.pop(CLUSTERING)
    assert same([losses], [losses_of(stock, targets)])
