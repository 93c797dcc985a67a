from __future__ import annotations

import time
from pathlib import Path

import matplotlib.style
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from anchor_lightning.visualization import anchor_plots as plots
from anchor_lightning.visualization.anchor_plots import anchor_figure, trajectory_figure
from anchor_lightning.visualization.animation import save_animation

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


def test_markers_stand_at_the_shapes() -> None:
    figure = anchor_figure(boxes(500), {"initial": IDENTICAL, "learned": UNIFORM, "k-means": UNIFORM / 2})
    drawn = {line.get_label(): line.get_xydata() for line in plane(figure).lines}
    np.testing.assert_allclose(drawn["initial"], IDENTICAL)
    np.testing.assert_allclose(drawn["learned"], UNIFORM)
    np.testing.assert_allclose(drawn["k-means"], UNIFORM / 2)
    assert len({line.get_marker() for line in plane(figure).lines} - {"None"}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["initial", "learned", "k-means"]


def test_density_is_highest_where_the_boxes_are() -> None:
    """Two clusters, one three times as large: the darkest contour lies on it and its marginal is the highest."""
    rng = np.random.default_rng(1)
    small = np.exp(rng.normal(np.log((20, 40)), 0.1, (3000, 2)))
    large = np.exp(rng.normal(np.log((200, 100)), 0.1, (1000, 2)))
    figure = anchor_figure(np.concatenate([small, large]), {})
    innermost = plane(figure).collections[-1].get_paths()[-1]
    assert innermost.contains_point((20, 40)) and not innermost.contains_point((200, 100))
    top, right = plane(figure).child_axes
    for axes, side, expected in ((top, 0, 20), (right, 1, 40)):
        outline = axes.collections[0].get_paths()[0].vertices
        assert outline[outline[:, 1 - side].argmax(), side] == pytest.approx(expected, rel=0.05)


def test_contours_enclose_their_share() -> None:
    data = boxes(20_000)
    contours = plane(anchor_figure(data, {})).collections[0].get_paths()
    shares = [path.contains_points(data[:5000]).mean() for path in contours]
    np.testing.assert_allclose(shares, plots.ENCLOSED, atol=0.025)


def test_both_axes_are_logarithmic_with_one_scale_and_ticks_in_pixels() -> None:
    axes = plane(anchor_figure(boxes(1000), {"initial": UNIFORM}))
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    assert np.log(x1 / x0) == pytest.approx(np.log(y1 / y0))
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_aspect() == 1
    assert {16, 32, 64, 128, 256} <= set(axes.get_xticks())
    further = plane(anchor_figure(boxes(100), {"initial": UNIFORM}, within=[[5000.0, 3.0]]))
    assert further.get_xlim()[1] > 5000 and further.get_ylim()[0] < 3, "of shapes that are not drawn, too"
    assert {len(line.get_xdata()) for line in further.lines if line.get_label() == "initial"} == {5}


def test_arrows_only_from_initial_to_learned_of_the_same_number_and_coinciding_shapes_are_counted() -> None:
    def arrows(**shapes: np.ndarray) -> int:
        return sum(getattr(text, "arrow_patch", None) is not None for text in plane(anchor_figure([], shapes)).texts)

    assert arrows(initial=IDENTICAL, learned=UNIFORM) == 5
    assert arrows(initial=IDENTICAL[:3], learned=UNIFORM) == 0
    assert arrows(uniform=IDENTICAL, learned=UNIFORM) == 0
    assert "×5" in [text.get_text() for text in plane(anchor_figure([], {"initial": IDENTICAL})).texts]


@pytest.mark.parametrize(
    "box_wh",
    [
        np.full((1, 2), 30.0),
        np.full((9, 2), 50.0),
        np.array([[30.0, 20.0], [30.0, 90.0]]),
        np.array([[np.nan, 3.0], [0.0, 4.0], [-1.0, 5.0], [np.inf, 2.0]]),
        np.exp(np.random.default_rng(0).normal(0, 5, (50, 2))),
    ],
    ids=["one", "all equal", "a line", "none valid", "fifteen octaves"],
)
def test_degenerate_boxes_still_draw(box_wh: np.ndarray) -> None:
    assert draw(anchor_figure(box_wh, {}, title="degenerate")).std() > 0


def test_boxes_without_a_shape_are_left_out() -> None:
    good = boxes(100)
    bad = np.array([[np.nan, 3.0], [0.0, 4.0], [-1.0, 5.0], [np.inf, 2.0]])
    first, second = anchor_figure(good, {}), anchor_figure(np.concatenate([bad, good]), {})
    assert "100 boxes" in [text.get_text() for text in plane(second).texts]
    np.testing.assert_array_equal(draw(first), draw(second))


def test_bad_arrays_raise() -> None:
    with pytest.raises(ValueError, match=r"boxes as \(N, 2\).*\(4, 3\)"):
        anchor_figure(np.ones((4, 3)), {})
    with pytest.raises(ValueError, match="'learned' must be positive"):
        anchor_figure(boxes(3), {"learned": [[1.0, 0.0]]})
    with pytest.raises(ValueError, match=r"steps \(S,\)"):
        trajectory_figure([0, 1], IDENTICAL[None])
    with pytest.raises(ValueError, match="S > 0"):
        trajectory_figure([], np.zeros((0, 5, 2)))
    with pytest.raises(ValueError, match=r"steps \(S,\)"):
        save_animation(Path("not_written.gif"), [0, 1], IDENTICAL[None], [])


def test_many_boxes_are_fast() -> None:
    many = boxes(900_000)
    start = time.process_time()
    anchor_figure(many, {"initial": IDENTICAL})
    assert time.process_time() - start < 3.0


def test_style_of_the_user_does_not_reach_the_figure() -> None:
    """White text of a dark style would vanish on the white ground."""
    with matplotlib.style.context("dark_background"):
        figures = [
            anchor_figure(boxes(100), {"a": IDENTICAL, "b": UNIFORM}, title="title"),
            trajectory_figure([0, 10], np.stack([IDENTICAL, UNIFORM]), boxes(9), title="title"),
        ]
        for figure in figures:
            pixels = draw(figure)
            assert (pixels[0] == 255).all()
            for axes in figure.axes:
                texts = [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
                assert all(max(to_rgb(text.get_color())) < 0.3 for text in texts)
            assert figure.get_suptitle() == "title"


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
    vermilion = np.array(to_rgb(plots.COLOURS[1])) * 255
    # All five shapes of `identical` lie on each other, at the end they lie apart: more of the markers' colour is seen.
    seen = [int((np.abs(frame - vermilion).max(axis=2) < 40).sum()) for frame in frames]
    assert seen[0] < seen[1] and 2.5 * seen[0] < seen[2], seen


def test_animation_of_one_step(tmp_path: Path) -> None:
    save_animation(tmp_path / "one.gif", [0], IDENTICAL[None], np.zeros((0, 2)))
    with Image.open(tmp_path / "one.gif") as animation:
        assert animation.n_frames == 1
