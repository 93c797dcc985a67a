"""The way of the anchor shapes over the density of the boxes, as an animated GIF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import ArrayLike
from PIL import Image

from anchor_lightning.visualization.anchor_plots import COLOURS, INK, PAPER, anchor_figure, checked_trajectory


def save_animation(path: Path, steps: ArrayLike, wh: ArrayLike, box_wh: ArrayLike) -> None:
    """Writes the shapes' way as a GIF: the initial shapes stay, the learned ones move and leave a trail.

    At most 60 of the steps are shown, the first and the last among them. The density is drawn once and only the markers
    move over it, so that this takes seconds.

    Args:
        path: Of the file.
        steps: (S,) optimizer steps, S >= 1, ascending.
        wh: (S, A, 2) widths and heights in pixels of the network input, > 0.
        box_wh: (N, 2) boxes in the same pixels.

    Raises:
        ValueError: `wh` is not (S, A, 2) with the S of `steps`, S is 0, or a shape is not positive and finite.
    """
    step, wh = checked_trajectory(steps, wh)
    shown = np.unique(np.linspace(0, len(step) - 1, min(60, len(step))).round().astype(np.int64))
    frames = _frames(step, wh, box_wh, shown)
    # One palette for all frames: colours must not flicker. The last frame has the longest trails.
    palette = frames[-1].quantize(256)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    milliseconds = [100] * len(others) + [2000]
    first.save(path, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, disposal=1)


def _frames(step: np.ndarray, wh: np.ndarray, box_wh: ArrayLike, shown: np.ndarray) -> list[Image.Image]:
    """The plane with the shapes at each of the shown indices, every frame a few markers on the same ground."""
    figure = anchor_figure(box_wh, {"initial": wh[0]}, within=wh.reshape(-1, 2), title="Anchors while they are learned")
    figure.set_dpi(100)
    plane = figure.axes[0]
    trails = [plane.plot([], [], color=INK, linewidth=0.9, alpha=0.7, animated=True)[0] for _ in range(wh.shape[1])]
    # As `anchor_figure` marks learned shapes.
    (markers,) = plane.plot([], [], "D", label="learned", color=COLOURS[1], markeredgecolor=PAPER, animated=True)
    markers.set(markersize=8, clip_on=False)
    text = plane.text(0.02, 0.975, "", transform=plane.transAxes, va="top", color=INK, animated=True)
    figure.legends[0].remove()  # it does not know the learned shapes
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    ground = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for index in shown:
        canvas.restore_region(ground)
        for anchor, trail in enumerate(trails):
            trail.set_data(*wh[: index + 1, anchor].T)
            plane.draw_artist(trail)
        markers.set_data(*wh[index].T)
        text.set_text(f"step {step[index]:,}")
        plane.draw_artist(markers)
        plane.draw_artist(text)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy()))
    return frames
