"""The rule that the evidence compares with: anchors that move as a whole, each positive for itself."""

import importlib
from pathlib import Path

import pytest
import torch

from anchor_lightning.detectors.torchvision.convert import CLUSTERING, freeze_anchors, make_anchors_learnable
from tests.detectors.torchvision.test_generators import RecordedMatcher, many_boxes
from tests.helpers.made_detectors import BOX_LOSS, KINDS, losses_of, make_detector, predictions_of, same


@pytest.fixture
def use_old_rule(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "evidence"))
    return importlib.import_module("old_rule").use_old_rule


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_anchors_that_move(kind, use_old_rule):
    """Finite differences of loss and clustering term, for shapes that have moved already; matching is held fixed."""
    model = make_detector(kind, clip=False)
    shapes = make_anchors_learnable(model)
    use_old_rule(model)
    model.double()
    for tensor in (shapes.log_wh, shapes.initial_log_wh, shapes.start, shapes.unit):  # no conversion makes them double
        tensor.data = tensor.data.double()
    shapes.clustering_weight = 2 / 3
    shapes.log_wh.data += 0.1 * torch.randn(shapes.log_wh.shape, dtype=torch.float64)
    host = getattr(model, "rpn", model)
    matcher = host.proposal_matcher = RecordedMatcher(host.proposal_matcher)
    targets = many_boxes()

    def first_stage():
        losses = losses_of(model, targets)
        return losses[BOX_LOSS[kind]] + losses[CLUSTERING]

    (gradient,) = torch.autograd.grad(first_stage(), shapes.log_wh)
    numeric, flat = torch.zeros_like(gradient), shapes.log_wh.data.view(-1)
    for index in range(gradient.numel()):
        for move in (1e-6, -1e-6):
            flat[index] += move
            numeric.view(-1)[index] += first_stage().item() / (2 * move)
            flat[index] -= move
    assert matcher.calls == 2 * (1 + 2 * gradient.numel()), "the third image has no box"
    assert (gradient != 0).all(1).sum() >= 5, "the case must reach most shapes"
    torch.testing.assert_close(gradient, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_the_same_and_it_freezes(kind, use_old_rule):
    stock, old = make_detector(kind), make_detector(kind)
    make_anchors_learnable(old)
    use_old_rule(old)
    losses = losses_of(old)
    losses.pop(CLUSTERING)
    assert same([losses], [losses_of(stock)])
    assert same(predictions_of(freeze_anchors(old)), predictions_of(stock))
