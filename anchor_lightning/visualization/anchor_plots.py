"""The log w - log h figure of the paper (Figures 2 and 3); loggers, commands and notebooks share it.

Shape letters: N boxes, A anchor shapes, G cells of the density grid along one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from anchor_lightning.visualization.axes import (
    FAINT,
    GRID,
    INK,
    PAPER,
    Limits,
    centres,
    draw_marginal,
    dress,
    kernel,
    logs,
    make_figure,
    pixel_axis,
    square_limits,
)
from anchor_lightning.visualization.labels import place_labels
from anchor_lightning.visualization.palette import MAX_NAMED, anchor_colour, anchor_colours, is_by_level

MARKERS: Final = ("o", "D", "^", "s", "v", "P", "X")
DENSITY_COLOURS: Final = LinearSegmentedColormap.from_list("density", ["#eef0f3", "#c9ced6", "#959eab", "#667080"])
# Shares of the boxes that lie inside each contour, outermost first.
ENCLOSED: Final = (0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
# Of a label, as shares of the plane's side: a letter of 8 points on a plane of about 350.
LETTER, LINE = 0.0145, 0.036
SAME: Final = 0.01  # nats within which shapes are shown as one
MIN_WAY: Final = 0.02  # the shortest that has an arrow, as a share of the plane's side


class Plane(NamedTuple):
    """The axes of an anchor figure: the plane and its marginals, and the plane's limits in nats."""

    figure: Figure
    plane: Axes
    top: Axes
    right: Axes
    limits: Limits


class ShapeSet(NamedTuple):
    """A set of shapes as it is drawn.

    Args:
        name: In the legend.
        log_wh: (A, 2) in nats.
        marker: matplotlib's.
        colours: A of them.
        hollow: Rings, which leave what lies under them visible.
        small: Markers of a set whose shapes are too many to be named.
    """

    name: str
    log_wh: np.ndarray
    marker: str
    colours: list[str]
    hollow: bool
    small: bool

    @property
    def size(self) -> float:
        """Of a marker, in points."""
        return 5.5 + 2.5 * (not self.small) + 1.5 * self.hollow


def anchor_figure(
    box_wh: ArrayLike,
    shapes: Mapping[str, ArrayLike],
    *,
    title: str | None = None,
    num_per_level: Sequence[int] = (),
) -> Figure:
    """The log w - log h plane: density of the boxes, its marginals, and any number of sets of anchor shapes over it.

    The density is a Gaussian kernel estimate (Scott's rule); distances are the log-L2 distance of Eq. 12. A single set,
    or `initial` with `learned`, to which arrows lead then, has the colours of its anchors; several other sets have one
    colour each. Texts name shapes by index, width and height, as long as these are 15 at most, the last set first. A
    larger set with several levels is coloured by level.

    Args:
        box_wh: (N, 2) widths and heights in pixels of the network input; those not positive and finite are left out.
        shapes: Sets of anchor shapes by their name in the legend, each (A, 2) widths and heights in pixels, > 0.
        title: A line above the figure.
        num_per_level: How many of the A shapes each level has, finest first; empty where there are no levels.

    Returns:
        A figure whose first axes are the plane.

    Raises:
        ValueError: An array is not (N, 2), or an anchor shape is not positive and finite.
    """
    log_shapes = {name: logs(f"shapes {name!r}", wh) for name, wh in shapes.items()}
    space = open_plane(box_wh, np.concatenate([np.zeros((0, 2)), *log_shapes.values()]), title)
    sets = style_sets(log_shapes, num_per_level)
    for index, one in enumerate(sets):
        draw_set(space, one, 4 + 0.1 * index)
    ways = np.zeros((0, 2, 2))
    if {*log_shapes} == {"initial", "learned"} and len(log_shapes["initial"]) == len(log_shapes["learned"]):
        ways = np.stack([log_shapes["initial"], log_shapes["learned"]], axis=1)
        _draw_arrows(space, ways, sets[-1])
    label_sets(space, sets, ways)
    draw_legend(space.figure, sets, num_per_level)
    return space.figure


def numbers_figure(numbers: Sequence[int], values: Sequence[float], chosen: int, label: str) -> Figure:
    """A measure of fitted shapes over their number, with the line from the first to the last and the place `chosen`.

    Args:
        numbers: Numbers of shapes, rising.
        values: The measure of each, in [0, 1].
        chosen: Index of the number that is marked.
        label: Name of the measure.
    """
    figure = make_figure((6.4, 4.0), None)
    axes = figure.add_subplot(facecolor=PAPER)
    line, mark = anchor_colour(0), anchor_colour(1)
    axes.plot([numbers[0], numbers[-1]], [values[0], values[-1]], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(numbers, values, "o-", color=line, markersize=5, linewidth=1.6)
    axes.plot(numbers[chosen], values[chosen], "o", color=mark, markersize=10, zorder=5)
    note = f"{numbers[chosen]} shapes: {values[chosen]:.3f}"
    text = axes.annotate(note, (numbers[chosen], values[chosen]), (10, -16), textcoords="offset points", color=mark)
    text.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 1})  # the line passes behind it
    axes.set_xlabel("number of shapes", color=INK)
    axes.set_ylabel(label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    dress(axes)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG with 150 pixels an inch."""
    figure.savefig(path, format="png", dpi=150)


def open_plane(box_wh: ArrayLike, log_shapes: np.ndarray, title: str | None) -> Plane:
    """The plane with the density of (N, 2) boxes in pixels, wide enough for (K, 2) shapes in nats, and no shape yet."""
    log_boxes = logs("boxes", box_wh, drop=True)
    limits = square_limits(log_boxes, log_shapes)
    figure = make_figure((6.4, 6.8), title)
    plane = figure.add_subplot(facecolor=PAPER)
    pixel_axis(plane, "x", *limits[0], "box width (pixels)")
    pixel_axis(plane, "y", *limits[1], "box height (pixels)")
    plane.set_aspect("equal", adjustable="box")
    dress(plane)
    # Insets, so that the marginals stay aligned with the plane at any figure size.
    top = plane.inset_axes((0, 1.015, 1, 0.17), sharex=plane, facecolor=PAPER)
    right = plane.inset_axes((1.015, 0, 0.17, 1), sharey=plane, facecolor=PAPER)
    space = Plane(figure, plane, top, right, limits)
    _draw_density(space, log_boxes)
    return space


def style_sets(log_shapes: Mapping[str, np.ndarray], num_per_level: Sequence[int]) -> list[ShapeSet]:
    """How sets of (A, 2) shapes in nats are drawn, by their names."""
    sets = []
    of_anchors = len(log_shapes) == 1 or {*log_shapes} == {"initial", "learned"}
    for index, (name, log_wh) in enumerate(log_shapes.items()):
        num = len(log_wh)
        colours = anchor_colours(num, num_per_level) if of_anchors else [anchor_colour(index)] * num
        hollow = of_anchors and name == "initial"
        sets.append(ShapeSet(name, log_wh, MARKERS[index % len(MARKERS)], colours, hollow, num > MAX_NAMED))
    return sets


def draw_set(space: Plane, one: ShapeSet, order: float) -> None:
    """One set of shapes: markers on the plane, short ticks at the foot of the marginals."""
    w, h = np.exp(one.log_wh).T
    draw_markers(space.plane, one).set(offsets=np.stack([w, h], axis=1), zorder=order)
    space.top.vlines(w, 0, 0.14, color=one.colours, linewidth=1.6, zorder=4)
    space.right.hlines(h, 0, 0.14, color=one.colours, linewidth=1.6, zorder=4)


def draw_markers(plane: Axes, one: ShapeSet) -> Any:
    """The markers of a set, matplotlib's collection, all at one place until its offsets are set."""
    wh = np.exp(one.log_wh)
    faces = "none" if one.hollow else one.colours
    edges, width = (one.colours, 1.5) if one.hollow else (PAPER, 0.5 if one.small else 1.0)
    style: dict[str, Any] = {"marker": one.marker, "facecolors": faces, "edgecolors": edges, "linewidths": width}
    return plane.scatter(wh[:, 0], wh[:, 1], one.size**2, label=one.name, clip_on=False, **style)


def draw_legend(figure: Figure, sets: Sequence[ShapeSet], num_per_level: Sequence[int]) -> None:
    """The names of the sets and levels, below the plane, where they cannot hide a shape."""
    handles = []
    for one in sets:
        colour = INK if len({*one.colours}) > 1 else one.colours[0] if one.colours else INK
        face = "none" if one.hollow else colour
        style: dict[str, Any] = {"markeredgecolor": colour if one.hollow else PAPER, "markerfacecolor": face}
        handles.append(Line2D([], [], linestyle="none", marker=one.marker, markersize=8, label=one.name, **style))
    if any(len({*one.colours}) > 1 and is_by_level(len(one.colours), num_per_level) for one in sets):
        style = {"linestyle": "none", "marker": "s", "markersize": 8}
        levels = range(len(num_per_level))
        handles += [Line2D([], [], color=anchor_colour(level), label=f"level {level}", **style) for level in levels]
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, 80 // (longest + 4))
        options: dict[str, Any] = {"columnspacing": 1.2, "handletextpad": 0.3, "frameon": False, "labelcolor": INK}
        figure.legend(handles=handles, fontsize=9, loc="outside lower center", ncols=columns, **options)


def label_sets(space: Plane, sets: Sequence[ShapeSet], ways: np.ndarray) -> list[Text]:
    """Texts `index  w x h` beside the shapes of the last sets, 15 at most, off what is drawn.

    Args:
        space: Where they are drawn.
        sets: What is drawn there.
        ways: (K, 2, 2) first and last points, in nats, of lines that are drawn there, too.
    """
    spots: list[tuple[np.ndarray, str, str]] = []  # place in nats, text, colour
    for one in reversed(sets):
        of_set = _spots(one)
        if len(spots) + len(of_set) > MAX_NAMED:
            break
        spots += of_set
    low, high = np.array(space.limits).T
    share = np.linspace(0, 1, 24)[:, None]
    along = [first + share * (last - first) for first, last in ways]
    ring = np.stack([np.cos(np.arange(0, 6.3, 0.7)), np.sin(np.arange(0, 6.3, 0.7))], axis=1) * 0.012 * (high - low)
    around = [point + ring for one in sets for point in one.log_wh]
    obstacles = (np.concatenate([np.zeros((0, 2)), *along, *around]) - low) / (high - low)
    points = np.array([(spot - low) / (high - low) for spot, _, _ in spots]).reshape(-1, 2)
    sizes = np.array([(LETTER * len(text) + 0.01, LINE) for _, text, _ in spots]).reshape(-1, 2)
    others = np.array([(point - low) / (high - low) for one in sets for point in one.log_wh]).reshape(-1, 2)
    others = others[np.abs(others[:, None] - points).max(axis=2).min(axis=1, initial=1) > MIN_WAY]
    places = place_labels(points, sizes, obstacles, others)
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "transform": space.plane.transAxes}
    ground = {"boxstyle": "square,pad=0.15", "facecolor": PAPER, "alpha": 0.85, "linewidth": 0.8}
    return [
        space.plane.text(x, y, text, color=INK, zorder=6, bbox=ground | {"edgecolor": colour}, **style)
        for (x, y), (_, text, colour) in zip(places, spots, strict=True)
    ]


def _spots(one: ShapeSet) -> list[tuple[np.ndarray, str, str]]:
    """Place in nats, text and colour of every shape; those that coincide (`identical`) have one text."""
    spots = []
    near = np.abs(one.log_wh[:, None] - one.log_wh).max(-1) < SAME
    firsts = [int(np.flatnonzero(row)[0]) for row in near]
    for first in sorted({*firsts}):
        (members,) = np.nonzero(np.equal(firsts, first))
        w, h = np.exp(one.log_wh[members[0]])
        name = ", ".join(map(str, members)) if len(members) <= 3 else f"×{len(members)}"
        colour = one.colours[members[0]] if len(members) == 1 or len({*one.colours}) == 1 else INK
        spots.append((one.log_wh[members[0]], f"{name}  {w:.0f} x {h:.0f}", colour))
    return spots


def _draw_arrows(space: Plane, ways: np.ndarray, learned: ShapeSet) -> None:
    arrow = {"arrowstyle": "->", "linewidth": 0.9, "alpha": 0.8, "shrinkA": 5, "shrinkB": learned.size / 2}
    low, high = space.limits[0]
    for way, colour in zip(ways, learned.colours, strict=True):
        if np.abs(way[1] - way[0]).max() > MIN_WAY * (high - low):
            start, end = np.exp(way)
            space.plane.annotate("", end, start, arrowprops=arrow | {"color": colour}, zorder=3)


def _draw_density(space: Plane, log_boxes: np.ndarray) -> None:
    """Contours of the boxes' density on the plane, and the two marginals."""
    plane, limits = space.plane, space.limits
    (w_low, w_high), (h_low, h_high) = limits
    draw_marginal(space.top, log_boxes[:, 0], w_low, w_high, vertical=False)
    draw_marginal(space.right, log_boxes[:, 1], h_low, h_high, vertical=True)
    plane.annotate(f"{len(log_boxes):,} boxes", (0.985, 0.015), xycoords="axes fraction", ha="right", color=FAINT)
    # Square shapes lie on this line, wide ones below, tall ones above.
    plane.axline((1, 1), (2, 2), color=FAINT, linewidth=0.7, linestyle=(0, (1, 3)), zorder=1.5)
    counts = np.histogram2d(log_boxes[:, 1], log_boxes[:, 0], GRID, [limits[1], limits[0]])[0]
    if not counts.any():
        return
    cell = (w_high - w_low) / GRID
    density = kernel(log_boxes[:, 1], cell, 2) @ counts @ kernel(log_boxes[:, 0], cell, 2).T
    falling = np.sort(density, axis=None)[::-1]
    share = np.cumsum(falling) / falling.sum()
    levels = np.unique(falling[np.searchsorted(share, ENCLOSED).clip(max=falling.size - 1)])
    colours = DENSITY_COLOURS(np.linspace(0, 1, len(levels)))
    sides = centres(w_low, w_high), centres(h_low, h_high)
    plane.contourf(*sides, density, levels=[*levels, np.inf], colors=colours, zorder=1)
