from __future__ import annotations

import time
from pathlib import Path

import matplotlib.style
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from anchor_lightning.anchors import initial_shapes
from anchor_lightning.visualization import anchor_plots as plots
from anchor_lightning.visualization.anchor_plots import anchor_figure, open_plane
from anchor_lightning.visualization.animation import save_animation
from anchor_lightning.visualization.labels import place_labels
from anchor_lightning.visualization.palette import anchor_colour, anchor_colours, anchor_names
from anchor_lightning.visualization.trajectories import trajectory_figure
from tests.helpers.figures import IDENTICAL, UNIFORM, boxes, colours, draw, labels, legend, markers, plane


def pyramid(num_levels: int = 5) -> np.ndarray:
    """(9 num_levels, 2): RetinaNet's shapes, nine to a level."""
    sides = 16 * 2 ** (np.arange(num_levels)[:, None, None] + np.arange(3)[:, None] / 3)  # (levels, 3, 1)
    ratio = np.sqrt([0.5, 1.0, 2.0])
    return np.stack([sides / ratio, sides * ratio], axis=-1).reshape(-1, 2)


def test_markers_stand_at_the_shapes() -> None:
    figure = anchor_figure(boxes(500), {"initial": IDENTICAL, "learned": UNIFORM, "k-means": UNIFORM / 2})
    drawn = markers(figure)
    np.testing.assert_allclose(drawn["initial"].get_offsets(), IDENTICAL)
    np.testing.assert_allclose(drawn["learned"].get_offsets(), UNIFORM)
    np.testing.assert_allclose(drawn["k-means"].get_offsets(), UNIFORM / 2)
    assert len({len(one.get_paths()[0].vertices) for one in drawn.values()}) == 3, "a form for each set"
    assert legend(figure) == ["initial", "learned", "k-means"]


def test_an_anchor_has_one_colour_in_every_figure() -> None:
    expected = [anchor_colour(index) for index in range(9)]
    assert len({*expected}) == 9 and anchor_colour(9) == anchor_colour(0)
    wh = pyramid(1)
    figure = anchor_figure(boxes(50), {"initial": wh, "learned": wh * 1.3})
    assert colours(figure, "initial") == colours(figure, "learned") == expected
    assert colours(anchor_figure([], {"fixed": wh}), "fixed") == expected
    panel = trajectory_figure([0, 1], np.stack([wh, wh])).axes[0]
    assert [line.get_color() for line in panel.lines if len(line.get_xdata()) == 2] == expected
    assert [text.get_color() for text in sorted(panel.texts, key=lambda t: int(t.get_text()))] == expected
    compared = anchor_figure([], {"mine": wh, "yours": wh * 2})
    assert colours(compared, "yours") == [anchor_colour(1)] * 9, "sets that are compared have a colour each"


def test_shapes_are_labelled_by_index_and_size() -> None:
    figure = anchor_figure(boxes(50), {"initial": IDENTICAL, "learned": UNIFORM})
    assert labels(figure) == [
        *("0  96 x 96", "1  96 x 288", "2  288 x 288", "3  288 x 96", "4  192 x 192", "×5  160 x 160")
    ]
    assert len(labels(anchor_figure([], {"a": pyramid(1), "b": pyramid(1) * 4}))) == 9, "18 would be too many"
    assert not labels(anchor_figure([], {"fixed": pyramid(2)}))


def test_labels_cover_neither_each_other_nor_the_markers_nor_the_frame() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        wh = np.exp(rng.normal(4, 0.6, (9, 2)))
        figure = anchor_figure(boxes(50), {"fixed": wh})
        draw(figure)
        texts = [text.get_bbox_patch().get_window_extent() for text in plane(figure).texts if text.get_bbox_patch()]
        assert len(texts) == 9
        for index, box in enumerate(texts):
            assert not any(box.overlaps(other) for other in texts[:index])
            frame = plane(figure).get_window_extent()
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        centres = plane(figure).transData.transform(wh)
        assert not any(box.contains(*centre) for box in texts for centre in centres)


def test_a_label_stands_at_its_own_point_and_takes_the_free_side() -> None:
    """Beside a neighbour on the right the label goes elsewhere; without obstacles it stands on the right."""
    point, size = np.array([[0.5, 0.5]]), np.array([[0.2, 0.04]])
    (free,) = place_labels(point, size, np.zeros((0, 2)), np.zeros((0, 2)))
    assert free[0] - 0.1 == pytest.approx(0.522) and free[1] == pytest.approx(0.5)
    (moved,) = place_labels(point, size, np.zeros((0, 2)), np.array([[0.75, 0.5]]))
    assert moved[0] + 0.1 < 0.75 - 0.02, "nearer to its own point"
    (corner,) = place_labels(np.array([[0.99, 0.99]]), size, np.zeros((0, 2)), np.zeros((0, 2)))
    assert (corner + size[0] / 2 <= 1).all()


def test_many_shapes_of_several_levels_are_coloured_by_level_which_the_legend_names() -> None:
    wh, levels = pyramid(), [9] * 5
    figure = anchor_figure(boxes(50), {"initial": wh, "learned": wh * 1.001}, num_per_level=levels)
    by_level = [anchor_colour(level) for level in range(5) for _ in range(9)]
    assert colours(figure, "learned") == colours(figure, "initial") == by_level
    names = [f"level {level}" for level in range(5)]
    assert legend(figure) == ["initial", "learned", *names]
    inner, outer = markers(figure)["learned"].get_sizes()[0], markers(figure)["initial"].get_sizes()[0]
    assert inner < outer and not len(markers(figure)["initial"].get_facecolor()), "both are seen where none moved"
    ways = trajectory_figure([0, 1], np.stack([wh, wh]), num_per_level=levels)
    assert [line.get_color() for line in ways.axes[0].lines if len(line.get_xdata()) == 2] == by_level
    assert legend(ways) == names
    one_level = trajectory_figure([0, 1], np.stack([wh, wh]))
    assert sorted(int(text.get_text()) for text in one_level.axes[0].texts) == [*range(45)]
    assert anchor_colours(45, levels) == by_level and anchor_names(45, levels)[8:10] == ["", "level 1"]
    few = anchor_figure([], {"fixed": pyramid(1)}, num_per_level=[3] * 3)
    assert len({*colours(few, "fixed")}) == 9 and legend(few) == ["fixed"]


@pytest.mark.parametrize("names", [["initial", "learned"], ["runs/version_0/checkpoints/last.ckpt " * 2] * 4])
def test_nothing_of_the_legend_is_cut(names: list[str]) -> None:
    figure = anchor_figure([], {f"{name}{k}": pyramid() for k, name in enumerate(names)}, num_per_level=[9] * 5)
    draw(figure)
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0


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
    further = open_plane(boxes(100), np.log([[5000.0, 3.0]]), None).plane
    assert further.get_xlim()[1] > 5000 and further.get_ylim()[0] < 3, "of shapes that are not drawn, too"


def test_arrows_only_from_initial_to_learned_of_the_same_number_and_coinciding_shapes_are_counted() -> None:
    def arrows(**shapes: np.ndarray) -> int:
        return sum(getattr(text, "arrow_patch", None) is not None for text in plane(anchor_figure([], shapes)).texts)

    assert arrows(initial=IDENTICAL, learned=UNIFORM) == 5
    assert arrows(initial=IDENTICAL[:3], learned=UNIFORM) == 0
    assert arrows(uniform=IDENTICAL, learned=UNIFORM) == 0
    assert arrows(initial=UNIFORM, learned=UNIFORM * 1.001) == 0, "none where nothing has moved"
    assert labels(anchor_figure([], {"initial": IDENTICAL})) == ["×5  160 x 160"]
    assert labels(anchor_figure([], {"fixed": IDENTICAL[:2]})) == ["0, 1  160 x 160"]
    learning = initial_shapes("identical", learn=True)
    assert learning is not None
    assert labels(anchor_figure([], {"initial": learning.numpy()})) == ["×5  160 x 160"], "within 0.2 %"


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
