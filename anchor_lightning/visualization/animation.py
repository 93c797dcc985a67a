"""The way of the anchor shapes over the density of the boxes, as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import ArrayLike
from PIL import Image

from anchor_lightning.visualization.anchor_plots import (
    draw_legend,
    draw_markers,
    draw_set,
    label_sets,
    open_plane,
    style_sets,
)
from anchor_lightning.visualization.axes import INK, checked_trajectory, logs

DPI: Final = 94  # about 600 pixels wide, as a page shows it
MAX_FRAMES: Final = 60


def save_animation(
    path: Path, steps: ArrayLike, wh: ArrayLike, box_wh: ArrayLike, num_per_level: Sequence[int] = ()
) -> None:
    """Writes the shapes' way as a GIF: the initial shapes stay, the learned ones move and leave a trail.

    At most 60 of the steps are shown, the first and the last among them; the last has the texts and stays for two
    seconds. The density is drawn once and only the markers move over it, so that this takes seconds.

    Args:
        path: Of the file.
        steps: (S,) optimizer steps, S >= 1, ascending.
        wh: (S, A, 2) widths and heights in pixels of the network input, > 0.
        box_wh: (N, 2) boxes in the same pixels.
        num_per_level: How many of the A shapes each level has, finest first; empty where there are no levels.

    Raises:
        ValueError: `wh` is not (S, A, 2) with the S of `steps`, S is 0, or a shape is not positive and finite.
    """
    step, wh = checked_trajectory(steps, wh)
    log_wh = logs("shapes", wh.reshape(-1, 2)).reshape(wh.shape)
    shown = np.unique(np.linspace(0, len(step) - 1, min(MAX_FRAMES, len(step))).round().astype(np.int64))
    frames = _frames(step, log_wh, box_wh, shown, num_per_level)
    # One palette for all frames: colours must not flicker. The last frame has the longest trails, and the texts.
    palette = frames[-1].quantize(256)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    milliseconds = [100] * len(others) + [2000]
    first.save(path, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, disposal=1)


def _frames(
    step: np.ndarray, log_wh: np.ndarray, box_wh: ArrayLike, shown: np.ndarray, num_per_level: Sequence[int]
) -> list[Image.Image]:
    """The plane with the shapes at each of the shown indices, every frame a few markers on the same ground."""
    space = open_plane(box_wh, log_wh.reshape(-1, 2), "Anchors while they are learned")
    space.figure.set_dpi(DPI)
    initial, learned = style_sets({"initial": log_wh[0], "learned": log_wh[-1]}, num_per_level)
    draw_legend(space.figure, [initial, learned], num_per_level)
    draw_set(space, initial, 4)
    trails = [space.plane.plot([], [], color=colour, linewidth=1.1, animated=True)[0] for colour in learned.colours]
    markers = draw_markers(space.plane, learned)
    corner: dict[str, Any] = {"transform": space.plane.transAxes, "va": "top", "color": INK}
    text = space.plane.text(0.02, 0.975, "", **corner)
    names = label_sets(space, [initial, learned], log_wh[[0, -1]].swapaxes(0, 1))
    moving = [*trails, markers, text]
    for artist in (*moving, *names):
        artist.set_animated(True)
    canvas: Any = FigureCanvasAgg(space.figure)
    canvas.draw()
    ground = canvas.copy_from_bbox(space.figure.bbox)
    frames = []
    for index in shown:
        canvas.restore_region(ground)
        for anchor, trail in enumerate(trails):
            trail.set_data(*np.exp(log_wh[: index + 1, anchor].T))
        markers.set_offsets(np.exp(log_wh[index]))
        text.set_text(f"step {step[index]:,}")
        for artist in (*moving, *(names if index == shown[-1] else ())):
            space.plane.draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy()))
    return frames
