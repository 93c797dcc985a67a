"""Which anchor answers for which box (δ of Eq. 1): hard, or soft with a temperature (Eq. 10)."""

from __future__ import annotations

from collections.abc import Sequence
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
    (assignment,) = assign_levels(
        log_wh, [len(log_wh)], boxes_xyxy, mask, [grid], [stride], temperature, distance=distance
    )
    return assignment


@torch.no_grad()
def assign_levels(
    log_wh: Tensor,
    num_per_level: Sequence[int],
    boxes_xyxy: Tensor,
    mask: Tensor,
    grids: Sequence[tuple[int, int]],
    strides: Sequence[int],
    temperature: Tensor | float = 0.0,
    distance: Distance = "iou",
) -> list[Assignment]:
    """The assignment of every box among all A shapes of a head with several levels, one record a level.

    A shape answers in the cell of its own level that holds the box's centre. δ is Eq. 10 over all A shapes, so that the
    rows of a real box sum to 1 over the levels together: with the hard assignment a box belongs to one level.

    Args:
        log_wh: (A, 2) as of `assign`, level after level.
        num_per_level: Number of shapes of each level; their sum is A.
        boxes_xyxy: As of `assign`.
        mask: As of `assign`.
        grids: Rows and columns of the feature map of each level.
        strides: Pixels per cell of each level.
        temperature: As of `assign`.
        distance: As of `assign`.
    """
    # The logarithm of a padded (all-zero) box stays finite.
    box_log_wh = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp_min(1e-4).log()  # (B, M, 2)
    delta = soft_or_hard(similarity(box_log_wh, log_wh, distance), temperature) * mask[..., None]  # (B, M, A)
    box_log_wh = box_log_wh * mask[..., None]
    return [
        Assignment(part, _cells(boxes_xyxy, grid, stride) * mask, box_log_wh)
        for part, grid, stride in zip(delta.split(list(num_per_level), -1), grids, strides, strict=True)
    ]


def _cells(boxes_xyxy: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """(B, M) row-major index of the cell that holds the centre of each box (B, M, 4)."""
    rows, columns = grid
    centre = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / (2 * stride)  # in cells
    column = centre[..., 0].long().clamp(0, columns - 1)  # a centre on the far edge belongs to the last cell
    row = centre[..., 1].long().clamp(0, rows - 1)
    return row * columns + column


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
