"""Anchors that are products of sizes, scales and ratios, as generators of RetinaNet, detectron2 and mmdet make them.

Shape letters: N boxes, L levels, S scales, R ratios, A = L * S * R shapes, K starts that climb side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anchor_lightning.anchors.iou import best_iou, mean_best_iou
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.ascent import COARSE, FINE, Cells, climb, gather, one_thread

NUM_STARTS, NUM_KEPT = 12, 3
COARSE_STEPS, FINE_STEPS = 80, 120
COARSE_RATE, FINE_RATE = 0.1, 0.03
DIGITS = 4  # significant ones that a size, scale or ratio is written with


@dataclass(frozen=True)
class SizeGrid:
    """The shapes of a generator: on every level all its sides with all its ratios.

    Args:
        sides: (L, S) square roots of areas in pixels of the network input: of shared scales, sizes (L,) x scales (S,).
        ratios: (L, R) heights over widths; the same on every level if `shared`.
        shared: Whether all levels share scales and ratios.
    """

    sides: Tensor
    ratios: Tensor
    shared: bool

    @property
    def wh(self) -> Tensor:
        """(A, 2) float32 pixels of the network input, level after level."""
        half = self.ratios.double().sqrt()[:, None]  # (L, 1, R)
        sides = self.sides.double()[:, :, None]  # (L, S, 1)
        return torch.stack([sides / half, sides * half], -1).reshape(-1, 2).float()

    @property
    def sizes(self) -> list[float]:
        """(L,) the smallest side of every level, times which `scales` are all its sides."""
        return self.sides[:, 0].tolist()

    @property
    def scales(self) -> list[float]:
        """(S,) of shared ones, from 1 on."""
        return (self.sides[0] / self.sides[0, 0]).tolist()


@one_thread()
def fit_size_grid(
    box_wh: Tensor, wh: Tensor, levels: int, shared: bool, whole_sizes: bool = False, seed: int = 0
) -> SizeGrid:
    """The grid in the place of free shapes that fits boxes best, by gradient ascent, with numbers as they are written.

    A box belongs to the level of its best free shape, and the grid's shapes of that level are to fit it: else a level
    would get shapes that its stride does not suit. Every way to make a level's shapes of scales and ratios is tried.

    Args:
        box_wh: (N, 2) widths and heights > 0 in pixels of the network input.
        wh: (A, 2) free shapes in the same pixels, level after level, equally many each.
        levels: L.
        shared: Whether all levels share scales and ratios.
        whole_sizes: Whether sizes are whole pixels.
        seed: Of the starts; equal arguments give equal grids.

    Raises:
        UserError: There are no boxes.
    """
    if not len(box_wh):
        raise UserError("there are no boxes to fit sizes and ratios to")
    per_level = len(wh) // levels
    coarse, fine = gather(box_wh.float(), COARSE), gather(box_wh.float(), FINE)
    grids = []
    for num_scales in range(1, per_level + 1):
        if per_level % num_scales == 0:
            parts = _Parts(levels, num_scales, per_level // num_scales, shared)
            starts = _starts(wh, parts, seed)
            climbed, score = _climb(coarse, wh, starts, parts, COARSE_STEPS, COARSE_RATE)
            best = climbed[score.topk(NUM_KEPT).indices]
            climbed, score = _climb(fine, wh, best, parts, FINE_STEPS, FINE_RATE)
            side, ratio = parts.split(climbed[score.argmax()][None])
            grids.append(_written(side[0].exp(), ratio[0].exp().expand(levels, -1), shared, whole_sizes))
    return max(grids, key=lambda grid: mean_best_iou(box_wh, grid.wh))


@dataclass(frozen=True)
class _Parts:
    """How the shapes of a grid are made of free numbers: the logarithms of sizes, scales and ratios."""

    levels: int
    num_scales: int
    num_ratios: int
    shared: bool

    def split(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """(K, L, S) logarithms of the sides and (K, L or 1, R) of the ratios, of (K, P) free numbers."""
        if self.shared:
            size, scale, ratio = free.split([self.levels, self.num_scales, self.num_ratios], dim=1)
            return size[:, :, None] + scale[:, None], ratio[:, None]
        side, ratio = free.split([self.levels * self.num_scales, self.levels * self.num_ratios], dim=1)
        return side.unflatten(1, (self.levels, -1)), ratio.unflatten(1, (self.levels, -1))

    def log_wh(self, free: Tensor) -> Tensor:
        """(K, A, 2) logarithms of the shapes, level after level."""
        side, ratio = self.split(free)
        side, half = side[:, :, :, None], ratio[:, :, None] / 2
        return torch.stack([side - half, side + half], -1).flatten(1, 3)


def _climb(cells: Cells, wh: Tensor, start: Tensor, parts: _Parts, steps: int, rate: float) -> tuple[Tensor, Tensor]:
    level_of = torch.arange(parts.levels).repeat_interleave(len(wh) // parts.levels)  # (A,)
    level_of_cell = level_of[best_iou(cells.wh, wh)[1]]  # (N,)
    return climb(cells, start, steps, rate, parts.log_wh, allowed=level_of[:, None] == level_of_cell)


def _starts(wh: Tensor, parts: _Parts, seed: int) -> Tensor:
    """(K, P) numbers to start from: sides and ratios at the quantiles of the free shapes', all but one with noise."""
    log_wh = wh.float().log().unflatten(0, (parts.levels, -1))
    side, ratio = log_wh.mean(2), log_wh[..., 1] - log_wh[..., 0]  # (L, A / L) each
    sides = side.quantile((torch.arange(parts.num_scales) + 0.5) / parts.num_scales, dim=1).T  # (L, S)
    quantiles = (torch.arange(parts.num_ratios) + 0.5) / parts.num_ratios
    if parts.shared:
        size = sides.mean(1)
        start = torch.cat([size, (sides - size[:, None]).mean(0), ratio.flatten().quantile(quantiles)])
    else:
        start = torch.cat([sides.flatten(), ratio.quantile(quantiles, dim=1).T.flatten()])
    noise = torch.randn(NUM_STARTS, len(start), generator=torch.Generator().manual_seed(seed)) * 0.2
    noise[0] = 0
    return start + noise


def _written(sides: Tensor, ratios: Tensor, shared: bool, whole_sizes: bool) -> SizeGrid:
    """The grid with scales and ratios in order, smallest first, and with the digits that it is written with."""
    sides, ratios = sides.sort(1).values, _rounded(ratios.sort(1).values)
    if not shared:
        return SizeGrid(_rounded(sides), ratios, shared)
    scales = _rounded(sides[0] / sides[0, 0])
    size = sides[:, 0].round().clamp_min(1) if whole_sizes else _rounded(sides[:, 0])
    return SizeGrid(size.double()[:, None] * scales, ratios, shared)


def _rounded(values: Tensor) -> Tensor:
    """The values with `DIGITS` significant digits, float64."""
    return torch.tensor(
        [float(f"{value:.{DIGITS}g}") for value in values.flatten().tolist()], dtype=torch.float64
    ).reshape(values.shape)
