"""Box shapes to draw, and what a figure of them shows."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

IDENTICAL = np.full((5, 2), 160.0)
UNIFORM = np.array([(96, 96), (96, 288), (288, 288), (288, 96), (192, 192)], dtype=float)


def boxes(num: int, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal((4.0, 4.4), (0.7, 0.5), (num, 2)))


def plane(figure: Figure) -> Axes:
    return figure.axes[0]


def draw(figure: Figure) -> np.ndarray:
    """(H, W, 3) pixels, rendered as a notebook or logger would."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def markers(figure: Figure) -> dict[str, PathCollection]:
    """The markers of each set by its name."""
    return {str(one.get_label()): one for one in plane(figure).collections if isinstance(one, PathCollection)}


def colours(figure: Figure, name: str) -> list[str]:
    """Of a set's markers, `#rrggbb` in capitals; hollow ones have that of their edge."""
    one = markers(figure)[name]
    drawn = one.get_facecolor() if len(one.get_facecolor()) else one.get_edgecolor()
    return [to_hex(colour).upper() for colour in np.broadcast_to(drawn, (len(one.get_offsets()), 4))]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def labels(figure: Figure) -> list[str]:
    """The texts at the shapes, in the order of their names."""
    return sorted(text.get_text() for text in plane(figure).texts if " x " in text.get_text())
