"""Geometry by hand values and against the pixels; colour against the standard library."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_lightning.data.transforms import (
    NEUTRAL_COLOUR,
    WHOLE_IMAGE,
    GeometryParams,
    distort_colour,
    draw_colour,
    draw_jitter,
    draw_native_crop,
    warp_boxes,
    warp_image,
)
from tests.helpers.tiny_data import texture


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_boxes_by_hand() -> None:
    boxes, kept = warp_boxes(np.array([[10.0, 20, 50, 80]]), (100, 200), WHOLE_IMAGE, (64, 32))
    np.testing.assert_allclose(boxes, [[1.6, 12.8, 8.0, 51.2]], rtol=1e-6)
    assert kept.tolist() == [True]
    boxes, _ = warp_boxes(np.array([[10.0, 20, 50, 80]]), (100, 200), GeometryParams(flip=True), (100, 200))
    np.testing.assert_allclose(boxes, [[150, 20, 190, 80]])
    # From x = 20 to 120 of 200, and from y = -25 to 75 of 100.
    window = GeometryParams(left=0.1, top=-0.25, width=0.5, height=1.0)
    stored = np.array([[10.0, 20, 70, 80], [125, 0, 130, 9], [20, 70, 120, 90]])
    boxes, kept = warp_boxes(stored, (100, 200), window, (200, 100))
    np.testing.assert_allclose(boxes, [[0, 90, 50, 200], [0, 190, 100, 200]])
    assert kept.tolist() == [True, False, True]
    boxes, kept = warp_boxes(np.zeros((0, 4)), (10, 10), WHOLE_IMAGE, (32, 32))
    assert (boxes.shape, boxes.dtype, kept.shape) == ((0, 4), np.float32, (0,))


def test_slivers_are_dropped_as_in_the_c_code() -> None:
    boxes = np.array([[0.0, 0, 0.99, 50], [0, 0, 1.01, 50], [0, 0, 50, 0.99]])
    _, kept = warp_boxes(boxes, (1000, 1000), WHOLE_IMAGE, (416, 416))
    assert kept.tolist() == [False, True, False]


SOURCES, TARGETS = st.sampled_from([(120, 160), (90, 60)]), st.sampled_from([(96, 128), (160, 96)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), SOURCES, TARGETS, st.booleans())
def test_pixels_go_where_boxes_go(seed: int, source: tuple[int, int], target: tuple[int, int], native: bool) -> None:
    box = np.array([[20.0, 30, 45, 70]])
    image = np.zeros((*source, 3), dtype=np.uint8)
    image[30:70, 20:45] = 255
    params = draw_native_crop(rng(seed), source, target) if native else draw_jitter(rng(seed))
    boxes, _ = warp_boxes(box, source, params, target)
    bright = warp_image(image, params, target)[..., 0] > 127
    if len(boxes) == 0:
        assert bright.mean() < 0.01
        return
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    if (boxes[0, 2:] - boxes[0, :2]).min() < 1.5:  # a sliver is grey all over: nothing in it tells where it ends
        return
    np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], boxes[0], atol=0.75)


def test_an_image_at_its_own_size_is_untouched_and_its_border_repeated() -> None:
    image = texture(64, 96)
    np.testing.assert_array_equal(warp_image(image, WHOLE_IMAGE, (64, 96)), image)
    np.testing.assert_array_equal(warp_image(image, GeometryParams(flip=True), (64, 96)), image[:, ::-1])
    # Outside of the image its border is repeated.
    image = texture(50, 50)
    warped = warp_image(image, GeometryParams(left=-0.5, top=0, width=1.5, height=1), (50, 75))
    np.testing.assert_array_equal(warped[:, 25:], image)
    np.testing.assert_array_equal(warped[:, :25], np.repeat(image[:, :1], 25, axis=1))


def test_a_native_crop_is_a_piece_of_the_image() -> None:
    image = texture(120, 160, seed=3)
    for seed in range(8):
        params = draw_native_crop(rng(seed), (120, 160), (64, 96))
        left, top = round(params.left * 160), round(params.top * 120)
        piece = image[top : top + 64, left : left + 96]
        np.testing.assert_array_equal(warp_image(image, params, (64, 96)), piece[:, ::-1] if params.flip else piece)
    places = {round(draw_native_crop(rng(seed), (34, 40), (32, 40)).top * 34) for seed in range(60)}
    assert places == {0, 1, 2}


def test_a_native_crop_of_a_small_image_holds_all_of_it() -> None:
    for seed in range(8):
        params = draw_native_crop(rng(seed), (30, 40), (64, 96))
        boxes, _ = warp_boxes(np.array([[0.0, 0, 40, 30]]), (30, 40), params, (64, 96))
        np.testing.assert_allclose(boxes[0, 2:] - boxes[0, :2], [40, 30], rtol=1e-5)


class CDraw(NamedTuple):
    """What the C code draws for one image, in its units: whole pixels of the stored image, and factors."""

    pleft: int
    pright: int
    ptop: int
    pbot: int
    flip: int
    hue: float
    saturation: float
    exposure: float


def c_draw(generator: random.Random, ow: int, oh: int) -> CDraw:
    """The draws of load_data_detection and random_distort_image with yolov2-voc.cfg's numbers, in their order."""

    def rand_scale(most: float) -> float:
        scale = generator.uniform(1, most)
        return scale if generator.randrange(2) else 1 / scale

    dw, dh = int(ow * 0.3), int(oh * 0.3)
    # An int of C cuts off towards zero, as int() does.
    pleft, pright = int(generator.uniform(-dw, dw)), int(generator.uniform(-dw, dw))
    ptop, pbot = int(generator.uniform(-dh, dh)), int(generator.uniform(-dh, dh))
    flip = generator.randrange(2)
    return CDraw(pleft, pright, ptop, pbot, flip, generator.uniform(-0.1, 0.1), rand_scale(1.5), rand_scale(1.5))


Box = tuple[float, ...]
"""Centre and sides, as shares of an image."""


def c_boxes(draw: CDraw, ow: int, oh: int, ground_truths: list[Box]) -> list[tuple[int, Box]]:
    """correct_boxes and fill_truth_detection: which boxes of the stored image survive, and where in the input."""
    sx, sy = (ow - draw.pleft - draw.pright) / ow, (oh - draw.ptop - draw.pbot) / oh
    dx, dy = draw.pleft / ow / sx, draw.ptop / oh / sy
    kept = []
    for number, (x, y, w, h) in enumerate(ground_truths):
        left, right = (x - w / 2) * (1 / sx) - dx, (x + w / 2) * (1 / sx) - dx
        top, bottom = (y - h / 2) * (1 / sy) - dy, (y + h / 2) * (1 / sy) - dy
        if draw.flip:
            left, right = 1 - right, 1 - left
        left, right, top, bottom = (min(1.0, max(0.0, side)) for side in (left, right, top, bottom))
        if right - left < 0.001 or bottom - top < 0.001:
            continue
        kept.append((number, ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)))
    return kept


def as_window(draw: CDraw, ow: int, oh: int) -> GeometryParams:
    """The same window in our terms."""
    width, height = ow - draw.pleft - draw.pright, oh - draw.ptop - draw.pbot
    return GeometryParams(draw.pleft / ow, draw.ptop / oh, width / ow, height / oh, bool(draw.flip))


Draws = dict[str, tuple[list[GeometryParams], np.ndarray]]
NUM_DRAWS = 20_000
P_VALUE = 1e-4
WIDTH, HEIGHT = 500, 375


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> float:
    """The largest distance between two empirical distribution functions."""
    at = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(sample), at, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


CRITICAL_DISTANCE = math.sqrt(-math.log(P_VALUE / 2) / 2) * math.sqrt(2 / NUM_DRAWS)
"""Of two samples of NUM_DRAWS each, of the same distribution, one pair in 1 / P_VALUE lies further apart."""


def columns(windows: Sequence[GeometryParams], colours: np.ndarray) -> dict[str, np.ndarray]:
    """What is drawn, and the combinations whose distributions a dependence between two draws would change."""
    left, top, width, height = np.array([(w.left, w.top, w.width, w.height) for w in windows]).T
    right, bottom = 1 - left - width, 1 - top - height
    hue, saturation, exposure = colours.T
    return {
        **{"left": left, "right": right, "top": top, "bottom": bottom, "width": width, "height": height},
        **{"hue": hue, "saturation": saturation, "exposure": exposure, "hue x left": hue * left},
        **{"left - right": left - right, "top - bottom": top - bottom, "hue x saturation": hue * np.log(saturation)},
        **{"left + top": left + top, "right + bottom": right + bottom, "aspect": width / height},
        **{"area": width * height, "product": saturation * exposure, "quotient": saturation / exposure},
    }


@pytest.fixture(scope="module")
def draws() -> Draws:
    """NUM_DRAWS images' parameters, ours and the C code's, each with a generator of its own kind."""
    ours, theirs = rng(0), random.Random(1)
    pairs = [(draw_jitter(ours), draw_colour(ours)) for _ in range(NUM_DRAWS)]
    of_c = [c_draw(theirs, WIDTH, HEIGHT) for _ in range(NUM_DRAWS)]
    colours = np.array([(draw.hue, draw.saturation, draw.exposure) for draw in of_c])
    return {
        "ours": ([window for window, _ in pairs], np.array([colour for _, colour in pairs], dtype=np.float64)),
        "c": ([as_window(draw, WIDTH, HEIGHT) for draw in of_c], colours),
    }


def test_draws_have_the_distributions_of_the_c_code(draws: Draws) -> None:
    ours, theirs = columns(*draws["ours"]), columns(*draws["c"])
    distances = {name: kolmogorov_smirnov(ours[name], theirs[name]) for name in ours}
    assert max(distances.values()) < CRITICAL_DISTANCE, distances
    # The measure sees what it must: a factor without the coin, and one drawn between 1 / 1.5 and 1.5, are far away.
    uniform = rng(2).uniform(1, 1.5, NUM_DRAWS), rng(2).uniform(1 / 1.5, 1.5, NUM_DRAWS)
    assert min(kolmogorov_smirnov(wrong, theirs["saturation"]) for wrong in uniform) > 3 * CRITICAL_DISTANCE


@pytest.mark.parametrize("whose", ["ours", "c"])
def test_draws_of_one_image_are_independent(whose: str, draws: Draws) -> None:
    windows, colours = draws[whose]
    drawn = columns(windows, colours)
    flip = np.array([window.flip for window in windows], dtype=np.float64)
    table = [flip, *(drawn[name] for name in ("left", "right", "top", "bottom", "hue"))]
    for factor in ("saturation", "exposure"):  # the size of the distortion, and the coin that turns it over
        table += [np.abs(np.log(drawn[factor])), (drawn[factor] > 1).astype(np.float64)]
    # Uncorrelated columns have a correlation of 0 ± 1 / sqrt(n), coins a share of 0.5 ± 0.5 / sqrt(n).
    bound = 4.5 / math.sqrt(NUM_DRAWS)
    correlation = np.corrcoef(table) - np.eye(len(table))
    assert np.abs(correlation).max() < bound, correlation.round(3)
    for coin in (flip, drawn["saturation"] > 1, drawn["exposure"] > 1):
        assert abs(coin.mean() - 0.5) < bound / 2


def test_boxes_survive_and_lie_as_in_the_c_code() -> None:
    """The same whole-pixel windows through both; among the boxes are clipped ones, slivers and ones cropped away."""
    generator = random.Random(2)
    num_boxes = num_kept = num_clipped = num_slivers = 0
    for _ in range(400):
        draw = c_draw(generator, WIDTH, HEIGHT)
        ground_truths = []
        for _ in range(20):
            w, h = (math.exp(generator.uniform(math.log(0.0005), 0)) for _ in range(2))
            ground_truths.append((generator.uniform(w / 2, 1 - w / 2), generator.uniform(h / 2, 1 - h / 2), w, h))
        xywh = np.array(ground_truths)
        corners = np.concatenate([xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2], axis=1)
        scale = np.tile((WIDTH, HEIGHT), 2)
        boxes, kept = warp_boxes(corners * scale, (HEIGHT, WIDTH), as_window(draw, WIDTH, HEIGHT), (416, 608))
        expected = c_boxes(draw, WIDTH, HEIGHT, ground_truths)
        assert np.flatnonzero(kept).tolist() == [number for number, _ in expected]
        sides = boxes[:, 2:] - boxes[:, :2]
        ours = np.concatenate([boxes[:, :2] + sides / 2, sides], axis=1)
        theirs = np.array([box for _, box in expected]).reshape(-1, 4) * np.tile((608, 416), 2)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)  # float32 pixels up to 608
        num_boxes, num_kept = num_boxes + len(ground_truths), num_kept + len(boxes)
        num_clipped += int(((boxes <= 0) | (boxes >= np.tile((608, 416), 2))).any(axis=1).sum())
        num_slivers += int((xywh[~kept, 2:] < 0.001).any(axis=1).sum())
    assert num_slivers > 100 and num_clipped > 500 and num_kept < num_boxes - num_slivers - 500


def test_pixels_of_a_window_are_the_c_codes() -> None:
    """crop_image takes the nearest pixel of the border outside of the image; at scale 1 both are exact."""
    image, generator = texture(60, 80, seed=5), random.Random(3)
    for _ in range(20):
        draw = c_draw(generator, 80, 60)
        columns_ = np.arange(draw.pleft, 80 - draw.pright).clip(0, 79)
        rows = np.arange(draw.ptop, 60 - draw.pbot).clip(0, 59)
        cropped = image[rows][:, columns_]
        warped = warp_image(image, as_window(draw, 80, 60), cropped.shape[:2])
        np.testing.assert_array_equal(warped, cropped[:, ::-1] if draw.flip else cropped)


def test_colour_agrees_with_colorsys() -> None:
    generator = rng(1)
    levels = np.array([0, 0.2, 0.5, 1.0])
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)  # greys, black, white and ties among them
    pixels = np.concatenate([grid, generator.random((136, 3))])
    colours = np.array([[0, 1, 1], [0.1, 1.5, 1.5], [-0.1, 1 / 1.5, 1.5], [0.07, 1.5, 1 / 1.5], [0.5, 0, 1]])
    images = torch.from_numpy(pixels.T.reshape(1, 3, 10, 20)).expand(len(colours), -1, -1, -1)
    result = distort_colour(images, torch.from_numpy(colours)).numpy().reshape(len(colours), 3, -1)
    hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels]
    for (hue, saturation, exposure), changed in zip(colours, result, strict=True):
        expected = [colorsys.hsv_to_rgb((h + hue) % 1, s * saturation, v * exposure) for h, s, v in hsv]
        np.testing.assert_allclose(changed.T, np.clip(expected, 0, 1), atol=1e-9)


def test_colour_leaves_its_input_alone_and_neutral_is_identity() -> None:
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    neutral = torch.from_numpy(NEUTRAL_COLOUR).expand(2, 3)
    torch.testing.assert_close(distort_colour(images, neutral), images, atol=1e-6, rtol=0)
    distort_colour(images, torch.tensor([[0.1, 1.5, 0.7]]).expand(2, 3))
    assert torch.equal(images, before)


@pytest.mark.parametrize("window", [GeometryParams(width=0.5, height=2.0), WHOLE_IMAGE])
def test_the_source_is_read_large_enough(window: GeometryParams) -> None:
    height, width = window.source_size((100, 60))
    assert height * window.height >= 100
    assert width * window.width >= 60
