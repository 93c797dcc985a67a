"""Geometry by hand values and against the pixels; colour against the standard library."""

from __future__ import annotations

import colorsys
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_lightning.data.transforms import (
    NEUTRAL_COLOUR,
    WHOLE_IMAGE,
    GeometryParams,
    boxes_in_window,
    distort_colour,
    draw_colour,
    draw_jitter,
    draw_native_crop,
    resize_window,
)
from tests.helpers.tiny_data import texture


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_boxes_by_hand() -> None:
    boxes, kept = boxes_in_window(np.array([[10.0, 20, 50, 80]]), (100, 200), WHOLE_IMAGE, (64, 32))
    np.testing.assert_allclose(boxes, [[1.6, 12.8, 8.0, 51.2]], rtol=1e-6)
    assert kept.tolist() == [True]
    boxes, _ = boxes_in_window(np.array([[10.0, 20, 50, 80]]), (100, 200), GeometryParams(flip=True), (100, 200))
    np.testing.assert_allclose(boxes, [[150, 20, 190, 80]])
    # From x = 20 to 120 of 200, and from y = -25 to 75 of 100.
    window = GeometryParams(left=0.1, top=-0.25, width=0.5, height=1.0)
    stored = np.array([[10.0, 20, 70, 80], [125, 0, 130, 9], [20, 70, 120, 90]])
    boxes, kept = boxes_in_window(stored, (100, 200), window, (200, 100))
    np.testing.assert_allclose(boxes, [[0, 90, 50, 200], [0, 190, 100, 200]])
    assert kept.tolist() == [True, False, True]
    boxes, kept = boxes_in_window(np.zeros((0, 4)), (10, 10), WHOLE_IMAGE, (32, 32))
    assert (boxes.shape, boxes.dtype, kept.shape) == ((0, 4), np.float32, (0,))


SOURCES, TARGETS = st.sampled_from([(120, 160), (90, 60)]), st.sampled_from([(96, 128), (160, 96)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), SOURCES, TARGETS, st.booleans())
def test_pixels_go_where_boxes_go(seed: int, source: tuple[int, int], target: tuple[int, int], native: bool) -> None:
    image = np.zeros((*source, 3), dtype=np.uint8)
    image[30:70, 20:45] = 255
    drawn = draw_native_crop(rng(seed), source, target) if native else draw_jitter(rng(seed))
    params = drawn.on_pixels(*source)
    assert not native or params == drawn, "a native crop is drawn in whole pixels"
    boxes, _ = boxes_in_window(np.array([[20.0, 30, 45, 70]]), source, params, target)
    bright = resize_window(image, params, target)[..., 0] > 127
    if len(boxes) == 0:
        assert bright.mean() < 0.01
    elif (boxes[0, 2:] - boxes[0, :2]).min() > 1.5:  # a sliver is grey all over: nothing in it tells where it ends
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], boxes[0], atol=0.75)
    # The whole image is read as large as the window needs it.
    height, width = params.source_size(target)
    assert height * params.height > target[0] - 1e-9 and width * params.width > target[1] - 1e-9


def test_a_native_crop_is_a_piece_of_the_image() -> None:
    image = texture(120, 160, seed=3)
    for seed in range(8):
        params = draw_native_crop(rng(seed), (120, 160), (64, 96))
        left, top = round(params.left * 160), round(params.top * 120)
        piece = image[top : top + 64, left : left + 96]
        np.testing.assert_array_equal(resize_window(image, params, (64, 96)), piece[:, ::-1] if params.flip else piece)
        # A small image is in it as a whole.
        params = draw_native_crop(rng(seed), (30, 40), (64, 96))
        boxes, _ = boxes_in_window(np.array([[0.0, 0, 40, 30]]), (30, 40), params, (64, 96))
        np.testing.assert_allclose(boxes[0, 2:] - boxes[0, :2], [40, 30], rtol=1e-5)
    places = {round(draw_native_crop(rng(seed), (34, 40), (32, 40)).top * 34) for seed in range(60)}
    assert places == {0, 1, 2}


Crop = tuple[int, int, int, int, int]
"""What the C code draws for an image in whole pixels of it: pleft, pright, ptop, pbot; and whether it is flipped."""


def c_draw(generator: random.Random, ow: int, oh: int) -> tuple[Crop, tuple[float, float, float]]:
    """load_data_detection and random_distort_image with yolov2-voc.cfg's numbers: crop, and hue, saturation, exposure.

    In the order of the C code, whose int cuts off towards zero, as int() does.
    """

    def rand_scale(most: float) -> float:
        scale = generator.uniform(1, most)
        return scale if generator.randrange(2) else 1 / scale

    dw, dh = int(ow * 0.3), int(oh * 0.3)
    pleft, pright, ptop, pbot = (int(generator.uniform(-most, most)) for most in (dw, dw, dh, dh))
    flip = generator.randrange(2)
    return (pleft, pright, ptop, pbot, flip), (generator.uniform(-0.1, 0.1), rand_scale(1.5), rand_scale(1.5))


def c_boxes(crop: Crop, ow: int, oh: int, xywh: np.ndarray) -> tuple[list[int], list[tuple[float, ...]]]:
    """correct_boxes and fill_truth_detection: which boxes of the stored image survive, and where in the input."""
    pleft, pright, ptop, pbot, flip = crop
    sx, sy = (ow - pleft - pright) / ow, (oh - ptop - pbot) / oh
    dx, dy = pleft / ow / sx, ptop / oh / sy
    numbers, kept = [], []
    for number, (x, y, w, h) in enumerate(xywh.tolist()):
        left, right = (x - w / 2) * (1 / sx) - dx, (x + w / 2) * (1 / sx) - dx
        top, bottom = (y - h / 2) * (1 / sy) - dy, (y + h / 2) * (1 / sy) - dy
        if flip:
            left, right = 1 - right, 1 - left
        left, right, top, bottom = (min(1.0, max(0.0, side)) for side in (left, right, top, bottom))
        if right - left >= 0.001 and bottom - top >= 0.001:
            numbers.append(number)
            kept.append(((left + right) / 2, (top + bottom) / 2, right - left, bottom - top))
    return numbers, kept


def as_window(crop: Crop, ow: int, oh: int) -> GeometryParams:
    """The same window in our terms."""
    pleft, pright, ptop, pbot, flip = crop
    return GeometryParams(pleft / ow, ptop / oh, (ow - pleft - pright) / ow, (oh - ptop - pbot) / oh, bool(flip))


NUM_DRAWS = 20_000
CRITICAL_DISTANCE = math.sqrt(-math.log(1e-4 / 2) / 2) * math.sqrt(2 / NUM_DRAWS)
"""Of two samples of NUM_DRAWS each, of the same distribution, one pair in 10,000 lies further apart."""
WIDTH, HEIGHT = 500, 375


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> float:
    """The largest distance between two empirical distribution functions."""
    at = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(sample), at, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def columns(pairs: list[tuple[GeometryParams, np.ndarray]]) -> dict[str, np.ndarray]:
    """What is drawn for images, and combinations of it."""
    flip, left, top, width, height = np.array([(w.flip, w.left, w.top, w.width, w.height) for w, _ in pairs]).T
    hue, saturation, exposure = np.array([colour for _, colour in pairs], dtype=np.float64).T
    right, bottom = 1 - left - width, 1 - top - height
    return {
        **{"left": left, "right": right, "top": top, "bottom": bottom, "hue": hue},
        **{"saturation": saturation, "exposure": exposure, "product": saturation * exposure, "flip": flip},
        **{"width": width, "height": height, "aspect": width / height, "area": width * height},
    }


@pytest.fixture(scope="module")
def ours() -> dict[str, np.ndarray]:
    generator = rng(0)
    draws = [(draw_jitter(generator), draw_colour(generator)) for _ in range(NUM_DRAWS)]
    return columns([(window.on_pixels(HEIGHT, WIDTH), colour) for window, colour in draws])


def test_draws_have_the_distributions_of_the_c_code(ours: dict[str, np.ndarray]) -> None:
    generator = random.Random(1)
    drawn = [c_draw(generator, WIDTH, HEIGHT) for _ in range(NUM_DRAWS)]
    theirs = columns([(as_window(crop, WIDTH, HEIGHT), np.array(colour)) for crop, colour in drawn])
    distances = {name: kolmogorov_smirnov(ours[name], theirs[name]) for name in ours}
    assert max(distances.values()) < CRITICAL_DISTANCE, distances
    # The measure sees what it must: a factor without the coin, and one drawn between 1 / 1.5 and 1.5, are far away.
    uniform = rng(2).uniform(1, 1.5, NUM_DRAWS), rng(2).uniform(1 / 1.5, 1.5, NUM_DRAWS)
    assert min(kolmogorov_smirnov(wrong, theirs["saturation"]) for wrong in uniform) > 3 * CRITICAL_DISTANCE


def test_draws_of_one_image_are_independent(ours: dict[str, np.ndarray]) -> None:
    table = [ours[name] for name in ("flip", "left", "right", "top", "bottom", "hue")]
    for factor in ("saturation", "exposure"):  # the size of the distortion, and the coin that turns it over
        table += [np.abs(np.log(ours[factor])), (ours[factor] > 1).astype(np.float64)]
    # Uncorrelated columns have a correlation of 0 ± 1 / sqrt(n), coins a share of 0.5 ± 0.5 / sqrt(n).
    correlation = np.corrcoef(table) - np.eye(len(table))
    assert np.abs(correlation).max() < 4.5 / math.sqrt(NUM_DRAWS), correlation.round(3)
    assert abs(ours["flip"].mean() - 0.5) < 4.5 / 2 / math.sqrt(NUM_DRAWS)


def test_boxes_survive_and_lie_as_in_the_c_code() -> None:
    """The same whole-pixel windows through both; among the boxes are clipped ones, slivers and ones cropped away."""
    generator, boxes_of = random.Random(2), rng(2)
    num_gone = num_clipped = num_slivers = 0
    for _ in range(400):
        crop, _ = c_draw(generator, WIDTH, HEIGHT)
        wh = np.exp(boxes_of.uniform(math.log(0.0005), 0, (20, 2)))
        xy = boxes_of.uniform(wh / 2, 1 - wh / 2)
        corners = np.concatenate([xy - wh / 2, xy + wh / 2], axis=1) * (WIDTH, HEIGHT, WIDTH, HEIGHT)
        boxes, kept = boxes_in_window(corners, (HEIGHT, WIDTH), as_window(crop, WIDTH, HEIGHT), (416, 608))
        numbers, expected = c_boxes(crop, WIDTH, HEIGHT, np.concatenate([xy, wh], axis=1))
        assert np.flatnonzero(kept).tolist() == numbers
        centred = np.concatenate([boxes[:, :2] + boxes[:, 2:], 2 * (boxes[:, 2:] - boxes[:, :2])], axis=1) / 2
        theirs = np.array(expected).reshape(-1, 4) * (608, 416, 608, 416)
        np.testing.assert_allclose(centred, theirs, rtol=0, atol=1e-4)  # float32 pixels up to 608
        sliver = (wh < 0.001).any(axis=1)
        num_slivers += (sliver & ~kept).sum()
        num_gone += (~sliver & ~kept).sum()
        num_clipped += ((boxes <= 0) | (boxes >= (608, 416, 608, 416))).any(axis=1).sum()
    assert num_slivers > 100 and num_clipped > 500 and num_gone > 500


def test_pixels_of_a_window_are_the_c_codes() -> None:
    """crop_image takes the nearest pixel of the border outside of the image; at scale 1 both are exact."""
    image, generator = texture(60, 80, seed=5), random.Random(3)
    for crop in ((0, 0, 0, 0, 0), *(c_draw(generator, 80, 60)[0] for _ in range(20))):
        pleft, pright, ptop, pbot, flip = crop
        rows, columns_ = np.arange(ptop, 60 - pbot).clip(0, 59), np.arange(pleft, 80 - pright).clip(0, 79)
        cropped = image[rows][:, columns_]
        warped = resize_window(image, as_window(crop, 80, 60), cropped.shape[:2])
        np.testing.assert_array_equal(warped, cropped[:, ::-1] if flip else cropped)


def test_a_window_is_taken_at_the_nearest_whole_pixels() -> None:
    assert GeometryParams(0.11, -0.13, 0.77, 0.9).pixels(40, 60) == (7, -5, 53, 31)
    assert GeometryParams(0.5, 0.5, 0.01, 0.01).pixels(9, 11) == (6, 4, 7, 5), "at least one pixel"
    assert WHOLE_IMAGE.on_pixels(375, 500) == WHOLE_IMAGE
    generator = rng(4)
    # An image that is decoded at a quarter, where a pixel is four of the stored ones.
    drawn = [draw_jitter(generator) for _ in range(NUM_DRAWS)]
    sides = np.array([(w.left, w.top, w.left + w.width, w.top + w.height) for w in drawn]) * (125, 94, 125, 94)
    taken = [w.on_pixels(94, 125) for w in drawn]
    whole = np.array([w.pixels(94, 125) for w in taken])
    assert np.abs(whole - sides).max() <= 0.5 + 1e-9
    # The mean of roundings that favour neither side is 0 +- 1 / sqrt(12 n).
    assert np.abs((whole - sides).mean(axis=0)).max() < 4.5 / math.sqrt(12 * NUM_DRAWS)
    assert [w.flip for w in taken] == [w.flip for w in drawn] and [w.on_pixels(94, 125) for w in taken[:99]] == taken[
        :99
    ]


def bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """Stretched along the first axis, pixel centres at halves, the border repeated; float64."""
    at = ((np.arange(size) + 0.5) * len(image) / size - 0.5).clip(0, len(image) - 1)
    below = np.floor(at).astype(int)
    share = (at - below)[:, None, None]
    return image[below] * (1 - share) + image[np.minimum(below + 1, len(image) - 1)] * share


def test_a_window_is_cropped_and_stretched_bilinearly() -> None:
    """Rounded to the nearest of 256 levels, with another half of a level for the resizing in integers."""
    image, generator = rng(5).integers(0, 256, (60, 80, 3)).astype(np.uint8), rng(6)
    for size in ((96, 64), (32, 160)):
        for _ in range(20):
            window = draw_jitter(generator)
            left, top, right, bottom = window.pixels(60, 80)
            cropped = image[np.arange(top, bottom).clip(0, 59)][:, np.arange(left, right).clip(0, 79)]
            expected = bilinear(bilinear(cropped, size[0]).swapaxes(0, 1), size[1]).swapaxes(0, 1)
            expected = expected[:, ::-1] if window.flip else expected
            made = resize_window(image, window, size)
            assert made.shape == (*size, 3) and made.flags.c_contiguous
            np.testing.assert_allclose(made, expected, rtol=0, atol=1)


def test_colour_agrees_with_colorsys() -> None:
    levels = np.array([0, 0.2, 0.5, 1.0])
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)  # greys, black, white and ties among them
    pixels = np.concatenate([grid, rng(1).random((136, 3))])
    colours = np.array([NEUTRAL_COLOUR, [0.1, 1.5, 1.5], [-0.1, 1 / 1.5, 1.5], [0.07, 1.5, 1 / 1.5], [0.5, 0, 1]])
    images = torch.from_numpy(pixels.T.reshape(1, 3, 10, 20)).expand(len(colours), -1, -1, -1)
    before = images.clone()
    distorted = distort_colour(images, torch.from_numpy(colours))
    assert torch.equal(images, before)
    into = images.clone()
    assert distort_colour(into, torch.from_numpy(colours), out=into) is into and torch.equal(into, distorted)
    result = distorted.numpy().reshape(len(colours), 3, -1)
    hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels]
    for (hue, saturation, exposure), changed in zip(colours, result, strict=True):
        expected = [colorsys.hsv_to_rgb((h + hue) % 1, s * saturation, v * exposure) for h, s, v in hsv]
        np.testing.assert_allclose(changed.T, np.clip(expected, 0, 1), atol=1e-9)
