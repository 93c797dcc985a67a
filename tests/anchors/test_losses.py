from __future__ import annotations

import pytest
import torch

from anchor_lightning.anchors import clustering_loss, wh_loss, xy_loss


def test_clustering_by_hand() -> None:
    """Two boxes, two shapes: Eq. 11-12 written out."""
    log_wh = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    boxes = torch.tensor([[1.5, 2.0], [3.0, 0.0]])
    delta = torch.tensor([[0.75, 0.25], [0.0, 1.0]])
    expected = (0.75 * 0.25 + 0.25 * (1.5**2 + 1.0) + 1.0 * 1.0) / (2 * 2)
    assert float(clustering_loss(log_wh, boxes, delta, 2.0)) == pytest.approx(expected)


def test_split_over_ranks_gives_the_same_gradient() -> None:
    """The mean over ranks of (world size x term with the global N) is the term over all boxes."""
    boxes = torch.randn(10, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    delta = torch.rand(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    log_wh = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(clustering_loss(log_wh, boxes, delta, 10.0), log_wh)
    shares = [slice(0, 3), slice(3, 10)]
    parts = [torch.autograd.grad(2 * clustering_loss(log_wh, boxes[s], delta[s], 10.0), log_wh)[0] for s in shares]
    torch.testing.assert_close(torch.stack(parts).mean(0), whole)


def test_localisation_by_hand() -> None:
    offset, target = torch.tensor([[0.2, 0.9]]), torch.tensor([[0.5, 0.5]])
    assert float(xy_loss(offset, target, torch.tensor([2.0]))) == pytest.approx(0.5 * 2 * (0.09 + 0.16))
    # Δ = (0.1, 0), anchor (e, e), box (e², 1): residuals 0.1 + 1 - 2 and 0 + 1 - 0.
    loss = wh_loss(
        torch.tensor([[0.1, 0.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([2.0, 0.0]), torch.tensor([3.0])
    )
    assert float(loss) == pytest.approx(0.5 * 3 * (0.81 + 1.0))
