"""The terms that move the shapes, sums with δ as a constant: localisation (Eq. 2-5), online clustering (Eq. 11-12)."""

from __future__ import annotations

from torch import Tensor


def xy_loss(offset_xy: Tensor, target_xy: Tensor, weight: Tensor) -> Tensor:
    """Half the weighted squared error of box centres (Eq. 2), a scalar sum.

    Args:
        offset_xy: (..., 2) predicted centre relative to the anchor's corner or centre.
        target_xy: (..., 2) true centre relative to the same point, in the same unit.
        weight: (...) δ times any scale of the caller's.
    """
    return 0.5 * (weight[..., None] * (offset_xy - target_xy).square()).sum()


def wh_loss(offset_wh: Tensor, log_wh: Tensor, target_log_wh: Tensor, weight: Tensor) -> Tensor:
    """Half the weighted squared error of box shapes in log space (Eq. 3-5), a scalar sum.

    The gradient with respect to `log_wh` is Eq. 9: Σ δ (Δ + ŝ - ĝ), the same as that at the network's output Δ.

    Args:
        offset_wh: (..., A, 2) predicted Δw, Δh.
        log_wh: (A, 2) ŝ, log widths and heights of the shapes.
        target_log_wh: (..., 2) ĝ, log widths and heights of the boxes in the unit of the shapes.
        weight: (..., A) δ times any scale of the caller's.
    """
    residual = offset_wh + log_wh - target_log_wh[..., None, :]  # (..., A, 2)
    return 0.5 * (weight[..., None] * residual.square()).sum()


def clustering_loss(log_wh: Tensor, target_log_wh: Tensor, delta: Tensor, num_boxes: Tensor | float) -> Tensor:
    """The online clustering term without its coefficient λ: Σ δ T / (2 N) (Eq. 11-12).

    Args:
        log_wh: (A, 2) ŝ.
        target_log_wh: (..., 2) ĝ.
        delta: (..., A) δ; rows of padding are 0.
        num_boxes: N = Σ δ over the global batch of all ranks, at least 1; where ranks average gradients, the caller
            multiplies the term by the world size.
    """
    squared_distance = (log_wh - target_log_wh[..., None, :]).square().sum(-1)  # (..., A), Eq. 12
    return (delta * squared_distance).sum() / (2 * num_boxes)
