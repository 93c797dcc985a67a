"""What holds of shapes, assignment and losses for any numbers that training may meet."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anchor_lightning.anchors import clustering_loss, wh_loss, xy_loss
from anchor_lightning.anchors.assignment import assign
from anchor_lightning.anchors.iou import shape_iou

side = st.floats(0.5, 2000, width=32)
shapes = st.lists(st.tuples(side, side), min_size=1, max_size=6).map(lambda rows: torch.tensor(rows).double())
number = st.floats(-20, 20, width=32)
quick = settings(max_examples=60, deadline=None)


@quick
@given(a=shapes, b=shapes, scale=st.floats(0.01, 100))
def test_shape_iou(a: Tensor, b: Tensor, scale: float) -> None:
    """In (0, 1], symmetric, 1 only for equal shapes, the same in any unit."""
    iou = shape_iou(a[:, None], b)
    assert ((iou > 0) & (iou <= 1)).all()
    torch.testing.assert_close(iou, shape_iou(b[:, None], a).T)
    torch.testing.assert_close(iou, shape_iou(a[:, None] * scale, b * scale))
    torch.testing.assert_close(shape_iou(a, a), torch.ones(len(a)).double())
    # The ratio of the smaller to the larger side bounds it, in each direction.
    ratio = (a[:, None] / b).log().abs().amax(-1).neg().exp()
    assert (iou <= ratio + 1e-12).all()


@quick
@given(
    log_wh=shapes.map(Tensor.log),
    wh=shapes,
    temperature=st.sampled_from([0.0, 1e-7, 1e-3, 0.1, 2.0, 1e6]),
    distance=st.sampled_from(["iou", "l2"]),
    corner=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
def test_rows_sum_to_one_and_padding_to_zero(
    log_wh: Tensor, wh: Tensor, temperature: float, distance: str, corner: tuple[float, float]
) -> None:
    """Rows of δ sum to 1, cells lie in the grid, the nearest shape gets most, and equal boxes are treated alike."""
    origin = torch.tensor(corner).double()
    boxes = torch.cat([origin.expand_as(wh), origin + wh], dim=-1)[None]  # boxes may leave the image
    mask = torch.ones(1, len(wh), dtype=torch.bool)
    found = assign(log_wh, boxes, mask, (3, 5), 32, temperature, distance)  # type: ignore[arg-type]
    delta = found.delta[0]
    torch.testing.assert_close(delta.sum(-1), torch.ones(len(wh)).double())
    assert ((found.cell >= 0) & (found.cell < 15)).all() and (delta >= 0).all() and delta.isfinite().all()
    order = torch.randperm(len(log_wh), generator=torch.Generator().manual_seed(0))
    permuted = assign(log_wh[order], boxes, mask, (3, 5), 32, temperature, distance)  # type: ignore[arg-type]
    if temperature >= 1e-3:  # a hard assignment breaks ties by the index
        torch.testing.assert_close(permuted.delta[0], delta[:, order])
    mask[0, 0] = False
    padded = assign(log_wh, boxes * mask[..., None], mask, (3, 5), 32, temperature, distance)  # type: ignore[arg-type]
    assert not padded.delta[0, 0].any() and not padded.cell[0, 0] and not padded.log_wh[0, 0].any()
    torch.testing.assert_close(padded.delta[0, 1:], delta[1:])


@quick
@given(log_wh=shapes.map(Tensor.log), wh=shapes, seed=st.integers(0, 1000), shift=number)
def test_losses(log_wh: Tensor, wh: Tensor, seed: int, shift: float) -> None:
    """Never negative, 0 at the ground truth, linear in δ, and only differences of logarithms count."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.rand(len(wh), len(log_wh), generator=generator).double().softmax(-1)
    offset = torch.randn(len(wh), len(log_wh), 2, generator=generator).double()
    target = wh.log()
    localisation, clustering = wh_loss(offset, log_wh, target, delta), clustering_loss(log_wh, target, delta, len(wh))
    assert localisation >= 0 and clustering >= 0
    torch.testing.assert_close(wh_loss(target[:, None] - log_wh, log_wh, target, delta) + 1, torch.ones(()).double())
    torch.testing.assert_close(wh_loss(offset, log_wh, target, 3 * delta), 3 * localisation)
    torch.testing.assert_close(clustering_loss(log_wh + shift, target + shift, delta, len(wh)), clustering)
    # With no offset the localisation term is the clustering term times N.
    torch.testing.assert_close(wh_loss(torch.zeros_like(offset), log_wh, target, delta), clustering * len(wh))
    centres = torch.rand(len(wh), 2, generator=generator).double()
    assert xy_loss(centres, centres, delta[:, 0]) == 0 and xy_loss(centres + 1, centres, delta[:, 0]) > 0
