"""The log w - log h figure of the paper (Figures 2 and 3) and the anchors' way there; loggers and notebooks share them.

Figures need no pyplot and no display, and look the same under any matplotlib style; colours are Okabe and Ito's.

Shape letters: N boxes, A anchor shapes, S recorded steps, G cells of the density grid along one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

INK, FAINT, PAPER = "#222222", "#8a8a8a", "#ffffff"
# Okabe-Ito, the strongest contrasts on grey first; its yellow is left out, which is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "D", "^", "s", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
DENSITY_COLOURS = LinearSegmentedColormap.from_list("density", ["#eef0f3", "#c9ced6", "#959eab", "#667080"])
# Shares of the boxes that lie inside each contour, outermost first.
ENCLOSED = (0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
GRID = 240
MIN_BANDWIDTH, MIN_SPAN = 0.02, np.log(4.0)  # nats; equal boxes stay drawable, an axis shows two powers of two
Limits = list[tuple[float, float]]


def anchor_figure(
    box_wh: ArrayLike, shapes: Mapping[str, ArrayLike], *, title: str | None = None, within: ArrayLike = ()
) -> Figure:
    """The log w - log h plane: density of the boxes, its marginals, and any number of sets of anchor shapes over it.

    The density is a Gaussian kernel estimate (Scott's rule); distances are the log-L2 distance of Eq. 12. From the set
    `initial` arrows lead to `learned` where these are the only sets.

    Args:
        box_wh: (N, 2) widths and heights in pixels of the network input; those not positive and finite are left out.
        shapes: Sets of anchor shapes by their name in the legend, each (A, 2) widths and heights in pixels, > 0.
        title: A line above the figure.
        within: (K, 2) further shapes in pixels, > 0, that the axes must reach; they are not drawn.

    Returns:
        A figure whose first axes are the plane.

    Raises:
        ValueError: An array is not (N, 2), or an anchor shape is not positive and finite.
    """
    log_boxes = _logs("boxes", box_wh, drop=True)
    log_shapes = {name: _logs(f"shapes {name!r}", wh) for name, wh in shapes.items()}
    further = _logs("within", within)
    limits = _square_limits(log_boxes, np.concatenate([further, *log_shapes.values()]))

    figure = _figure((6.4, 6.8), title)
    plane = figure.add_subplot(facecolor=PAPER)
    _pixel_axis(plane, "x", *limits[0], "box width (pixels)")
    _pixel_axis(plane, "y", *limits[1], "box height (pixels)")
    plane.set_aspect("equal", adjustable="box")
    _dress(plane)
    # Insets, so that the marginals stay aligned with the plane at any figure size.
    top = plane.inset_axes((0, 1.015, 1, 0.17), sharex=plane, facecolor=PAPER)
    right = plane.inset_axes((1.015, 0, 0.17, 1), sharey=plane, facecolor=PAPER)
    _draw_density(plane, top, right, log_boxes, limits)
    for index, (name, log_wh) in enumerate(log_shapes.items()):
        _draw_set(plane, top, right, name, log_wh, index)
    if set(log_shapes) == {"initial", "learned"} and len(log_shapes["initial"]) == len(log_shapes["learned"]):
        arrow = {"arrowstyle": "->", "color": INK, "linewidth": 0.8, "alpha": 0.7, "shrinkA": 4, "shrinkB": 5}
        for start, end in zip(np.exp(log_shapes["initial"]), np.exp(log_shapes["learned"]), strict=True):
            plane.annotate("", end, start, arrowprops=arrow, zorder=3)
    if shapes:  # below the plane, where it cannot hide a shape
        figure.legend(loc="outside lower center", ncols=4, frameon=False, labelcolor=INK)
    return figure


def trajectory_figure(
    steps: ArrayLike, wh: ArrayLike, box_wh: ArrayLike | None = None, *, title: str | None = None
) -> Figure:
    """Width and height of every anchor shape over the optimizer steps; up to 15 lines are named by the anchor's index.

    Args:
        steps: (S,) optimizer steps, S >= 1, in the order of `wh`.
        wh: (S, A, 2) widths and heights in pixels of the network input, > 0.
        box_wh: (N, 2) boxes in the same pixels, drawn as marginal densities beside the lines; None leaves them out.
        title: A line above the figure.

    Returns:
        A figure: widths on the left, heights on the right, one logarithmic pixel axis.

    Raises:
        ValueError: As `checked_trajectory`, or a shape is not positive and finite.
    """
    step, wh = checked_trajectory(steps, wh)
    log_wh = _logs("shapes", wh.reshape(-1, 2)).reshape(wh.shape)
    log_boxes = _logs("boxes", () if box_wh is None else box_wh, drop=True)
    # One range for both sides: widths and heights are compared with each other, too.
    low, high = _square_limits(log_boxes.reshape(-1, 1), log_wh.reshape(-1, 1))[0]

    figure = _figure((9.6, 4.4), title)
    first: Axes | None = None
    for side, name in enumerate(("width", "height")):
        panel = figure.add_subplot(1, 2, side + 1, facecolor=PAPER, sharey=first)
        first = first or panel
        for anchor in range(wh.shape[1]):
            colour, dash = COLOURS[anchor % len(COLOURS)], DASHES[anchor // len(COLOURS) % len(DASHES)]
            panel.plot(step, wh[:, anchor, side], color=colour, linestyle=dash, linewidth=1.6)
            # The dot at the end also makes a run of a single step visible.
            panel.plot(step[-1], wh[-1, anchor, side], "o", color=colour, markersize=4, clip_on=False, zorder=5)
        _pixel_axis(panel, "y", low, high, f"anchor {name} (pixels)")
        panel.set_xlabel("optimizer step", color=INK)
        panel.set_xlim(step.min(), step.max() + (step.max() == step.min()))
        _dress(panel)
        if wh.shape[1] <= 15:  # those of a pyramid's 45 shapes would cover each other
            _label_ends(panel, log_wh[-1, :, side], low, high)
        if box_wh is not None:
            margin = panel.inset_axes((1.07, 0, 0.13, 1), sharey=panel, facecolor=PAPER)
            _draw_marginal(margin, log_boxes[:, side], low, high, vertical=True)
    return figure


def checked_trajectory(steps: ArrayLike, wh: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(S,) int64 optimizer steps and (S, A, 2) float64 shapes at them; a ValueError if they are not so, or S is 0."""
    step, shapes = np.asarray(steps, dtype=np.int64), np.asarray(wh, dtype=np.float64)
    if step.ndim != 1 or not len(step) or shapes.ndim != 3 or shapes.shape[0] != len(step) or shapes.shape[2] != 2:
        raise ValueError(f"expected steps (S,) and wh (S, A, 2) with S > 0, got {step.shape} and {shapes.shape}")
    return step, shapes


def numbers_figure(numbers: Sequence[int], values: Sequence[float], chosen: int, label: str) -> Figure:
    """A measure of fitted shapes over their number, with the line from the first to the last and the place `chosen`.

    Args:
        numbers: Numbers of shapes, rising.
        values: The measure of each, in [0, 1].
        chosen: Index of the number that is marked.
        label: Name of the measure.
    """
    figure = _figure((6.4, 4.0), None)
    axes = figure.add_subplot(facecolor=PAPER)
    axes.plot([numbers[0], numbers[-1]], [values[0], values[-1]], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(numbers, values, "o-", color=COLOURS[0], markersize=5, linewidth=1.6)
    axes.plot(numbers[chosen], values[chosen], "o", color=COLOURS[1], markersize=10, zorder=5)
    note = f"{numbers[chosen]} shapes: {values[chosen]:.3f}"
    axes.annotate(note, (numbers[chosen], values[chosen]), (10, -16), textcoords="offset points", color=COLOURS[1])
    axes.set_xlabel("number of shapes", color=INK)
    axes.set_ylabel(label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _dress(axes)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG with 150 pixels an inch."""
    figure.savefig(path, format="png", dpi=150)


def _figure(size: tuple[float, float], title: str | None) -> Figure:
    figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
    if title:
        figure.suptitle(title, color=INK)
    return figure


def _logs(what: str, wh: ArrayLike, drop: bool = False) -> np.ndarray:
    """(N, 2) natural logarithms of widths and heights; those not positive and finite raise an error, or are dropped."""
    array = np.asarray(wh, dtype=np.float64)
    array = array if array.size else array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"expected {what} as (N, 2) widths and heights, got an array of shape {array.shape}")
    good = np.isfinite(array) & (array > 0)
    if not (drop or good.all()):
        raise ValueError(f"{what} must be positive and finite, got {array.tolist()}")
    return np.asarray(np.log(array[good.all(axis=1)]))


def _square_limits(log_boxes: np.ndarray, log_shapes: np.ndarray) -> Limits:
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


def _kernel(log_values: np.ndarray, cell: float, num_dims: int) -> np.ndarray:
    """(G, G) matrix that convolves a histogram along one side with a Gaussian of Scott's bandwidth."""
    bandwidth = float(log_values.std()) * len(log_values) ** (-1 / (num_dims + 4))
    offset = np.arange(GRID)[:, None] - np.arange(GRID)
    weight = np.exp(-0.5 * (offset * cell / max(bandwidth, MIN_BANDWIDTH, cell)) ** 2)
    return np.asarray(weight / weight[GRID // 2].sum())


def _centres(low: float, high: float) -> np.ndarray:
    """(G,) centres of the grid cells in pixels."""
    return np.exp(low + (np.arange(GRID) + 0.5) * (high - low) / GRID)


def _draw_density(plane: Axes, top: Axes, right: Axes, log_boxes: np.ndarray, limits: Limits) -> None:
    """Contours of the boxes' density on the plane, and the two marginals."""
    (w_low, w_high), (h_low, h_high) = limits
    _draw_marginal(top, log_boxes[:, 0], w_low, w_high, vertical=False)
    _draw_marginal(right, log_boxes[:, 1], h_low, h_high, vertical=True)
    plane.annotate(f"{len(log_boxes):,} boxes", (0.985, 0.015), xycoords="axes fraction", ha="right", color=FAINT)
    # Square shapes lie on this line, wide ones below, tall ones above.
    plane.axline((1, 1), (2, 2), color=FAINT, linewidth=0.7, linestyle=(0, (1, 3)), zorder=1.5)
    counts = np.histogram2d(log_boxes[:, 1], log_boxes[:, 0], GRID, [limits[1], limits[0]])[0]
    if not counts.any():
        return
    cell = (w_high - w_low) / GRID
    density = _kernel(log_boxes[:, 1], cell, 2) @ counts @ _kernel(log_boxes[:, 0], cell, 2).T
    falling = np.sort(density, axis=None)[::-1]
    share = np.cumsum(falling) / falling.sum()
    levels = np.unique(falling[np.searchsorted(share, ENCLOSED).clip(max=falling.size - 1)])
    colours = DENSITY_COLOURS(np.linspace(0, 1, len(levels)))
    sides = _centres(w_low, w_high), _centres(h_low, h_high)
    plane.contourf(*sides, density, levels=[*levels, np.inf], colors=colours, zorder=1)


def _draw_marginal(axes: Axes, log_values: np.ndarray, low: float, high: float, *, vertical: bool) -> None:
    """The density of one side of the boxes, along the neighbour's axis and without one of its own."""
    axes.set_axis_off()
    (axes.set_xlim if vertical else axes.set_ylim)(0, 1.05)
    counts = np.histogram(log_values, GRID, (low, high))[0]
    if not counts.any():
        return
    density = _kernel(log_values, (high - low) / GRID, 1) @ counts
    fill = axes.fill_betweenx if vertical else axes.fill_between
    fill(_centres(low, high), density / density.max(), color="#c9ced6", edgecolor="#667080", linewidth=0.8)


def _draw_set(plane: Axes, top: Axes, right: Axes, name: str, log_wh: np.ndarray, index: int) -> None:
    """One set of shapes: markers on the plane, short ticks at the foot of the marginals."""
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    w, h = np.exp(log_wh).T
    edge: dict[str, Any] = {"markeredgecolor": PAPER, "markeredgewidth": 1.1}
    plane.plot(w, h, marker, label=name, color=colour, markersize=8, zorder=4 + 0.1 * index, clip_on=False, **edge)
    top.vlines(w, 0, 0.14, color=colour, linewidth=1.6, zorder=4)
    right.hlines(h, 0, 0.14, color=colour, linewidth=1.6, zorder=4)
    # Shapes that coincide (`identical`) would look like one.
    spots, counts = np.unique(np.round(log_wh, 2), axis=0, return_counts=True)
    for (x, y), count in zip(np.exp(spots), counts, strict=True):
        if count > 1:
            plane.annotate(f"×{count}", (x, y), (7, -11), textcoords="offset points", color=colour, fontsize=9)


def _pixel_axis(axes: Axes, letter: str, low: float, high: float, label: str) -> None:
    """Make the x or y axis logarithmic in pixels from `low` to `high` (nats), with ticks at powers of two."""
    axes.set(**{f"{letter}scale": "log", f"{letter}lim": (np.exp(low), np.exp(high))})
    axis = axes.xaxis if letter == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(2, (1.0,) if high - low > 4 * np.log(2) else (1.0, 1.5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_label_text(label, color=INK)


def _label_ends(panel: Axes, log_ends: np.ndarray, low: float, high: float) -> None:
    """Name each line by its anchor's index at its right end, pushed apart where lines end together."""
    gap = (high - low) * 0.045
    order = np.argsort(log_ends, kind="stable")
    # Centred on the lines as a stack: pushing up only would drift away from a bundle of equal shapes.
    heights = np.maximum.accumulate(log_ends[order] - gap * np.arange(len(order))) + gap * np.arange(len(order))
    heights -= (heights - log_ends[order]).mean() if len(order) else 0
    for anchor, height in zip(order, heights, strict=True):
        text = panel.text(1.015, float(np.exp(height)), str(anchor), va="center", transform=panel.get_yaxis_transform())
        text.set_color(COLOURS[anchor % len(COLOURS)])


def _dress(axes: Axes) -> None:
    """Colours of frame, ticks and grid, whatever the user's style says."""
    axes.tick_params(colors=INK)
    axes.grid(True, color="#e3e3e3", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.8)
