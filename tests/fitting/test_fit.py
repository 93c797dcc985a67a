from __future__ import annotations

import pytest
import torch

from anchor_lightning.errors import UserError
from anchor_lightning.fitting import ascent_shapes, fit, fit_shapes, kmeans_shapes


def test_methods_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "LEARN_STEPS", 3)
    boxes = torch.exp(torch.randn(60, 2, generator=torch.Generator().manual_seed(0))) * 50
    assert torch.equal(fit_shapes(boxes, 3, seed=1), ascent_shapes(boxes, 3, seed=1))
    start = fit_shapes(boxes, 3, "kmeans")
    assert torch.equal(start, kmeans_shapes(boxes, 3))
    learned = fit_shapes(boxes, 3, "learned", (416, 416), 2.0)
    assert not torch.equal(learned, start) and learned.prod(1).tolist() == sorted(learned.prod(1).tolist())
    with pytest.raises(UserError, match=r"method: .*image_size"):
        fit_shapes(boxes, 3, "learned")
