from __future__ import annotations

import pytest
import torch

from anchor_lightning.anchors import AnchorShapes
from anchor_lightning.errors import UserError

WH = torch.tensor([[96.0, 96.0], [96.0, 288.0]])


def test_holds_logarithms_and_remembers_the_start() -> None:
    shapes = AnchorShapes(2, WH, learn=False)
    assert not shapes.log_wh.requires_grad
    torch.testing.assert_close(shapes.log_wh.detach(), WH.log())
    with torch.no_grad():
        shapes.log_wh.add_(0.5)
    torch.testing.assert_close(shapes.wh, WH * torch.e**0.5)
    torch.testing.assert_close(shapes.initial_wh, WH)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_stays_float32_exactly_when_the_model_is_converted(dtype: torch.dtype) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), AnchorShapes(2, WH))
    model.to(dtype)
    assert model[0].weight.dtype == dtype
    assert model[1].log_wh.dtype == torch.float32
    assert torch.equal(model[1].log_wh, WH.log()), "a detour through the other type would have rounded"


def test_created_in_float32_under_another_default() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert AnchorShapes(2, WH).log_wh.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_pending_until_given_or_loaded() -> None:
    pending = AnchorShapes(2)
    pending.load_state_dict({}, strict=False)
    assert pending.pending, "weights of a backbone alone bring no shapes"
    pending.load_state_dict(AnchorShapes(2, WH).state_dict())
    assert not pending.pending
    torch.testing.assert_close(pending.wh, WH)
    torch.testing.assert_close(pending.initial_wh, WH)


@pytest.mark.parametrize("bad", [0.0, -3.0, float("nan"), float("inf")])
def test_sides_without_logarithm(bad: float) -> None:
    with pytest.raises(UserError, match=r"shape 1 .*positive"):
        AnchorShapes(2, torch.tensor([[1.0, 1.0], [bad, 2.0]]))
    with pytest.raises(UserError, match="expected"):
        AnchorShapes(3, WH)
