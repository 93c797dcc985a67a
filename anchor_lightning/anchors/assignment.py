"""Which anchor answers for which box (δ of Eq. 1): hard, or soft with a temperature (Eq. 10)."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from anchor_lightning.anchors.iou import shape_iou
from anchor_lightning.errors import UserError
from anchor_lightning.structures import Assignment

Distance = Literal["iou", "l2"]

HARD_TEMPERATURE: Final = 1e-6  # Below it Eq. 10 is its limit, the nearest anchor alone (the softmax is 0/0 at 0)


@torch.no_grad()
def assign(
    log_wh: Tensor,
    boxes_xyxy: Tensor,
    mask: Tensor,
    grid: tuple[int, int],
    stride: int,
    temperature: Tensor | float = 0.0,
    distance: Distance = "iou",
) -> Assignment:
    """The assignment of every box among the A anchors of its centre's cell, without gradient (δ is held fixed, §3.2).

    Args:
        log_wh: (A, 2) log widths and heights of the shapes in pixels.
        boxes_xyxy: (B, M, 4) boxes in pixels of the network input.
        mask: (B, M) bool, True where a box is real.
        grid: Rows H and columns W of the feature map.
        stride: Pixels per cell.
        temperature: T >= 0 of Eq. 10 (a tensor spares recompilations); below 1e-6 the nearest anchor gets all.
        distance: `iou` for 1 - IoU of the shapes, `l2` for the squared distance of their logarithms (Eq. 12).
    """
    rows, columns = grid
    # The logarithm of a padded (all-zero) box stays finite.
    box_log_wh = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp_min(1e-4).log()  # (B, M, 2)
    centre = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / (2 * stride)  # in cells
    column = centre[..., 0].long().clamp(0, columns - 1)  # (B, M); a centre on the far edge belongs to the last cell
    row = centre[..., 1].long().clamp(0, rows - 1)
    delta = soft_or_hard(similarity(box_log_wh, log_wh, distance), temperature)
    return Assignment(
        delta=delta * mask[..., None], cell=(row * columns + column) * mask, log_wh=box_log_wh * mask[..., None]
    )


def similarity(box_log_wh: Tensor, log_wh: Tensor, distance: Distance) -> Tensor:
    """(..., A) negative distance of each box (..., 2) to each shape (A, 2), up to a constant that no softmax sees.

    Raises:
        UserError: The distance is neither `iou` nor `l2`.
    """
    if distance == "iou":
        return shape_iou(box_log_wh.exp()[..., None, :], log_wh.exp())
    if distance == "l2":
        return -(box_log_wh[..., None, :] - log_wh).square().sum(-1)
    raise UserError(f"unknown '{distance}'; known are iou and l2", argument="distance")


def soft_or_hard(similarities: Tensor, temperature: Tensor | float) -> Tensor:
    """Eq. 10 over the last dimension, and its limit below a temperature of 1e-6; the same shape, rows sum to 1."""
    temperature = torch.as_tensor(temperature, dtype=similarities.dtype, device=similarities.device)
    soft = (similarities / temperature.clamp_min(HARD_TEMPERATURE)).softmax(-1)
    # argmax returns the first of equal values, as the strict > of YOLOv2's loop does.
    hard = one_hot(similarities.argmax(-1), similarities.shape[-1]).to(similarities.dtype)
    return torch.where(temperature < HARD_TEMPERATURE, hard, soft)


def critical_temperature(box_wh: Tensor) -> float:
    """T_c = 2 λ_max(cov(log w, log h)) of boxes (N, 2), above which `l2` draws all shapes to one optimum (Rose 1998).

    Raises:
        UserError: There are fewer than two boxes.
    """
    if len(box_wh) < 2:
        raise UserError(
            f"the critical temperature needs two training boxes or more, there are {len(box_wh)}; give T as a number"
        )
    return float(2 * torch.linalg.eigvalsh(box_wh.double().log().T.cov(correction=0))[-1])
