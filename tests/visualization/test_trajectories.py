"""The shapes over the steps: the figure and the animation."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from anchor_lightning.visualization.animation import save_animation
from anchor_lightning.visualization.palette import anchor_colour
from anchor_lightning.visualization.trajectories import trajectory_figure
from tests.helpers.figures import IDENTICAL, UNIFORM, boxes, draw


def test_trajectory_draws_every_anchor() -> None:
    steps = np.arange(0, 100, 10)
    wh = np.exp(np.random.default_rng(0).normal(4, 0.5, (10, 9, 2)))
    figure = trajectory_figure(steps, wh, boxes(100))
    for side, axes in enumerate(figure.axes[:2]):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 10]
        np.testing.assert_allclose(np.stack([line.get_ydata() for line in lines], axis=1), wh[:, :, side])
        assert sorted(text.get_text() for text in axes.texts) == [str(i) for i in range(9)]
        assert axes.get_yscale() == "log"


@pytest.mark.parametrize("num_anchors", [0, 5])
def test_trajectory_of_one_step_or_no_anchors(num_anchors: int) -> None:
    figure = trajectory_figure([7], np.full((1, num_anchors, 2), 160.0), np.zeros((0, 2)))
    assert draw(figure).std() > 0


def test_labels_of_coinciding_lines_are_pushed_apart() -> None:
    figure = trajectory_figure([0, 1], np.stack([IDENTICAL, IDENTICAL]))
    heights = np.log(sorted(text.get_position()[1] for text in figure.axes[0].texts))
    assert (np.diff(heights) > 0.05).all()
    assert heights.mean() == pytest.approx(np.log(160))


def test_animation_moves_the_shapes_over_one_ground(tmp_path: Path) -> None:
    """100 steps become 60 frames, first and last, a leap, among them; markers move, the axes stay."""
    way = np.array([*np.linspace(0, 0.1, 99), 1])[:, None, None]
    wh = np.exp((1 - way) * np.log(IDENTICAL) + way * np.log(UNIFORM / 4))
    start = time.process_time()
    save_animation(path := tmp_path / "anchors.gif", np.arange(0, 1000, 10), wh, boxes(1000))
    assert time.process_time() - start < 10
    with Image.open(path) as animation:
        assert animation.n_frames == 60 and animation.info["loop"] == 0
        frames = []
        for index in (0, 30, 59):
            animation.seek(index)
            frames.append(np.asarray(animation.convert("RGB")).astype(int))
        assert animation.info["duration"] > 1000, "the end can be looked at"
    width = frames[0].shape[1]
    for frame in frames:
        assert (frame[:8, :8] > 245).all(), "an opaque light ground"
        assert (np.abs(frame[:, : width // 8] - frames[0][:, : width // 8]) < 8).all(), "labels stand still"
    # All five shapes of `identical` lie on each other, the last on top; at the end they lie apart.
    for anchor in range(5):
        colour = np.array(to_rgb(anchor_colour(anchor))) * 255
        seen = [int((np.abs(frame - colour).max(axis=2) < 40).sum()) for frame in frames]
        assert seen[2] > 30 and (seen[0] < seen[2] or anchor == 4), (anchor, seen)


def test_the_plot_fills_the_animation_and_its_file_is_small(tmp_path: Path) -> None:
    way = np.linspace(0, 1, 60)[:, None, None]
    wh = np.exp((1 - way) * np.log(IDENTICAL) + way * np.log(UNIFORM / 4))
    save_animation(path := tmp_path / "anchors.gif", np.arange(60), wh, boxes(1000))
    assert path.stat().st_size < 500_000
    with Image.open(path) as animation:
        assert 580 < animation.width < 640
        ink = np.asarray(animation.convert("L")) < 200
    rows, columns = np.nonzero(ink.any(axis=1))[0], np.nonzero(ink.any(axis=0))[0]
    assert rows[0] < 20 and rows[-1] > ink.shape[0] - 20 and columns[0] < 20 and columns[-1] > ink.shape[1] - 20
    # No band without ink between the plot and the legend: a removed legend would leave one.
    assert np.diff(rows).max() < 20


def test_animation_of_one_step(tmp_path: Path) -> None:
    save_animation(tmp_path / "one.gif", [0], IDENTICAL[None], np.zeros((0, 2)))
    with Image.open(tmp_path / "one.gif") as animation:
        assert animation.n_frames == 1
