"""Width and height of the anchor shapes over the steps of a training; shape letters as in `axes.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from anchor_lightning.visualization.axes import (
    INK,
    PAPER,
    checked_trajectory,
    draw_marginal,
    dress,
    logs,
    make_figure,
    pixel_axis,
    square_limits,
)
from anchor_lightning.visualization.palette import LINE_COLOURS, anchor_colour, anchor_colours, is_by_level

DASHES: Final = ("-", "--", ":", "-.")


def trajectory_figure(
    steps: ArrayLike,
    wh: ArrayLike,
    box_wh: ArrayLike | None = None,
    *,
    title: str | None = None,
    num_per_level: Sequence[int] = (),
) -> Figure:
    """Width and height of every anchor shape over the optimizer steps.

    Each line ends in the anchor's index; more than 15 shapes of several levels are coloured by level instead, which a
    legend names.

    Args:
        steps: (S,) optimizer steps, S >= 1, in the order of `wh`.
        wh: (S, A, 2) widths and heights in pixels of the network input, > 0.
        box_wh: (N, 2) boxes in the same pixels, drawn as marginal densities beside the lines; None leaves them out.
        title: A line above the figure.
        num_per_level: How many of the A shapes each level has, finest first; empty where there are no levels.

    Returns:
        A figure: widths on the left, heights on the right, one logarithmic pixel axis.

    Raises:
        ValueError: As `checked_trajectory`, or a shape is not positive and finite.
    """
    step, wh = checked_trajectory(steps, wh)
    log_wh = logs("shapes", wh.reshape(-1, 2)).reshape(wh.shape)
    log_boxes = logs("boxes", () if box_wh is None else box_wh, drop=True)
    # One range for both sides: widths and heights are compared with each other, too.
    low, high = square_limits(log_boxes.reshape(-1, 1), log_wh.reshape(-1, 1))[0]
    by_level = is_by_level(wh.shape[1], num_per_level)
    colours = anchor_colours(wh.shape[1], num_per_level)

    figure = make_figure((9.6, 4.4), title)
    first: Axes | None = None
    for side, name in enumerate(("width", "height")):
        panel = figure.add_subplot(1, 2, side + 1, facecolor=PAPER, sharey=first)
        first = first or panel
        for anchor, colour in enumerate(colours):
            dash = "-" if by_level else DASHES[anchor // len(LINE_COLOURS) % len(DASHES)]
            panel.plot(step, wh[:, anchor, side], color=colour, linestyle=dash, linewidth=1.1 if by_level else 1.6)
            # The dot at the end also makes a run of a single step visible.
            panel.plot(step[-1], wh[-1, anchor, side], "o", color=colour, markersize=4, clip_on=False, zorder=5)
        pixel_axis(panel, "y", low, high, f"anchor {name} (pixels)")
        panel.set_xlabel("optimizer step", color=INK)
        panel.set_xlim(step.min(), step.max() + (step.max() == step.min()))
        dress(panel)
        if not by_level:
            _label_ends(panel, log_wh[-1, :, side], low, high, colours)
        if box_wh is not None:
            margin = panel.inset_axes((1.07, 0, 0.13, 1), sharey=panel, facecolor=PAPER)
            draw_marginal(margin, log_boxes[:, side], low, high, vertical=True)
    if by_level:
        handles = [Line2D([], [], color=anchor_colour(k), label=f"level {k}") for k in range(len(num_per_level))]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, labelcolor=INK)
    return figure


def _label_ends(panel: Axes, log_ends: np.ndarray, low: float, high: float, colours: Sequence[str]) -> None:
    """Name each line by its anchor's index at its right end, pushed apart where lines end together."""
    if not len(log_ends):
        return
    gap = (high - low) * min(0.045, 1 / len(log_ends))
    order = np.argsort(log_ends, kind="stable")
    # Centred on the lines as a stack: pushing up only would drift away from a bundle of equal shapes.
    heights = np.maximum.accumulate(log_ends[order] - gap * np.arange(len(order))) + gap * np.arange(len(order))
    heights -= (heights - log_ends[order]).mean()
    heights += max(0.0, low - heights[0]) - max(0.0, heights[-1] - high)
    size = 10 * gap / ((high - low) * 0.045)
    for anchor, height in zip(order, heights, strict=True):
        y = float(np.exp(height))
        text = panel.text(1.015, y, str(anchor), va="center", size=size, transform=panel.get_yaxis_transform())
        text.set_color(colours[anchor])
