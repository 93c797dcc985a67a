"""What the figures share: their frame, logarithmic axes in pixels, the density of one side of the boxes.

Figures need no pyplot and no display, and look the same under any matplotlib style.

Shape letters: N boxes, A anchor shapes, S recorded steps, G cells of the density grid along one side.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

INK, FAINT, PAPER = "#222222", "#8a8a8a", "#ffffff"
GRID = 240
MIN_BANDWIDTH, MIN_SPAN = 0.02, np.log(4.0)  # nats; equal boxes stay drawable, an axis shows two powers of two
Limits = list[tuple[float, float]]


def make_figure(size: tuple[float, float], title: str | None) -> Figure:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
    if title:
        figure.suptitle(title, color=INK)
    return figure


def logs(what: str, wh: ArrayLike, drop: bool = False) -> np.ndarray:
    """(N, 2) natural logarithms of widths and heights; those not positive and finite raise an error, or are dropped."""
    array = np.asarray(wh, dtype=np.float64)
    array = array if array.size else array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"expected {what} as (N, 2) widths and heights, got an array of shape {array.shape}")
    good = np.isfinite(array) & (array > 0)
    if not (drop or good.all()):
        raise ValueError(f"{what} must be positive and finite, got {array.tolist()}")
    return np.asarray(np.log(array[good.all(axis=1)]))


def checked_trajectory(steps: ArrayLike, wh: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(S,) int64 optimizer steps and (S, A, 2) float64 shapes at them; a ValueError if they are not so, or S is 0."""
    step, shapes = np.asarray(steps, dtype=np.int64), np.asarray(wh, dtype=np.float64)
    if step.ndim != 1 or not len(step) or shapes.ndim != 3 or shapes.shape[0] != len(step) or shapes.shape[2] != 2:
        raise ValueError(f"expected steps (S,) and wh (S, A, 2) with S > 0, got {step.shape} and {shapes.shape}")
    return step, shapes


def square_limits(log_boxes: np.ndarray, log_shapes: np.ndarray) -> Limits:
    """(low, high) in nats per column, equally long, around nearly all boxes and every shape."""
    points = log_shapes
    if len(log_boxes):
        # A few specks among 900,000 boxes must not decide the scale.
        points = np.concatenate([points, np.quantile(log_boxes, (0.001, 0.999), axis=0)])
    if not len(points):
        points = np.log(np.tile([[8.0], [512.0]], log_shapes.shape[1]))
    low, high = points.min(axis=0), points.max(axis=0)
    half = max((high - low).max() * 1.12, MIN_SPAN) / 2
    return [(float(mid - half), float(mid + half)) for mid in (low + high) / 2]


def kernel(log_values: np.ndarray, cell: float, num_dims: int) -> np.ndarray:
    """(G, G) matrix that convolves a histogram along one side with a Gaussian of Scott's bandwidth."""
    bandwidth = float(log_values.std()) * len(log_values) ** (-1 / (num_dims + 4))
    offset = np.arange(GRID)[:, None] - np.arange(GRID)
    weight = np.exp(-0.5 * (offset * cell / max(bandwidth, MIN_BANDWIDTH, cell)) ** 2)
    return np.asarray(weight / weight[GRID // 2].sum())


def centres(low: float, high: float) -> np.ndarray:
    """(G,) centres of the grid cells in pixels."""
    return np.exp(low + (np.arange(GRID) + 0.5) * (high - low) / GRID)


def draw_marginal(axes: Axes, log_values: np.ndarray, low: float, high: float, *, vertical: bool) -> None:
    """The density of one side of the boxes, along the neighbour's axis and without one of its own."""
    axes.set_axis_off()
    (axes.set_xlim if vertical else axes.set_ylim)(0, 1.05)
    counts = np.histogram(log_values, GRID, (low, high))[0]
    if not counts.any():
        return
    density = kernel(log_values, (high - low) / GRID, 1) @ counts
    fill = axes.fill_betweenx if vertical else axes.fill_between
    fill(centres(low, high), density / density.max(), color="#c9ced6", edgecolor="#667080", linewidth=0.8)


def pixel_axis(axes: Axes, letter: str, low: float, high: float, label: str) -> None:
    """Make the x or y axis logarithmic in pixels from `low` to `high` (nats), with ticks at powers of two."""
    axes.set(**{f"{letter}scale": "log", f"{letter}lim": (np.exp(low), np.exp(high))})
    axis = axes.xaxis if letter == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(2, (1.0,) if high - low > 4 * np.log(2) else (1.0, 1.5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_label_text(label, color=INK)


def dress(axes: Axes) -> None:
    """Colours of frame, ticks and grid, whatever the user's style says."""
    axes.tick_params(colors=INK)
    axes.grid(True, color="#e3e3e3", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.8)
