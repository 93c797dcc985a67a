"""Geometry by hand values and against the pixels; colour against the standard library."""

from __future__ import annotations

import colorsys

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
from tests.data.conftest import texture


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_stretching_scales_boxes_by_hand() -> None:
    boxes, kept = warp_boxes(np.array([[10.0, 20, 50, 80]]), (100, 200), WHOLE_IMAGE, (64, 32))
    np.testing.assert_allclose(boxes, [[1.6, 12.8, 8.0, 51.2]], rtol=1e-6)
    assert kept.tolist() == [True]


def test_flipping_mirrors_boxes_by_hand() -> None:
    boxes, _ = warp_boxes(np.array([[10.0, 20, 50, 80]]), (100, 200), GeometryParams(flip=True), (100, 200))
    np.testing.assert_allclose(boxes, [[150, 20, 190, 80]])


def test_cropping_and_expanding_by_hand() -> None:
    # From x = 20 to 120 of 200, and from y = -25 to 75 of 100.
    window = GeometryParams(left=0.1, top=-0.25, width=0.5, height=1.0)
    boxes, kept = warp_boxes(
        np.array([[10.0, 20, 70, 80], [125, 0, 130, 9], [20, 70, 120, 90]]), (100, 200), window, (200, 100)
    )
    np.testing.assert_allclose(boxes, [[0, 90, 50, 200], [0, 190, 100, 200]])
    assert kept.tolist() == [True, False, True]


def test_slivers_are_dropped_as_in_the_c_code() -> None:
    boxes = np.array([[0.0, 0, 0.99, 50], [0, 0, 1.01, 50], [0, 0, 50, 0.99]])
    _, kept = warp_boxes(boxes, (1000, 1000), WHOLE_IMAGE, (416, 416))
    assert kept.tolist() == [False, True, False]


def test_no_boxes_stay_no_boxes() -> None:
    boxes, kept = warp_boxes(np.zeros((0, 4)), (10, 10), WHOLE_IMAGE, (32, 32))
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32
    assert kept.shape == (0,)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([(120, 160), (90, 60)]),
    st.sampled_from([(96, 128), (160, 96)]),
    st.booleans(),
)
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
    if len(rows) == 0:
        assert (boxes[0, 2:] - boxes[0, :2]).min() < 1.5
        return
    np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], boxes[0], atol=0.75)


def test_a_whole_image_at_its_own_size_is_untouched() -> None:
    image = texture(64, 96)
    np.testing.assert_array_equal(warp_image(image, WHOLE_IMAGE, (64, 96)), image)
    np.testing.assert_array_equal(warp_image(image, GeometryParams(flip=True), (64, 96)), image[:, ::-1])


def test_the_border_is_repeated() -> None:
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


def test_native_crops_reach_every_place() -> None:
    places = {round(draw_native_crop(rng(seed), (34, 40), (32, 40)).top * 34) for seed in range(60)}
    assert places == {0, 1, 2}


def test_a_native_crop_of_a_small_image_holds_all_of_it() -> None:
    for seed in range(8):
        params = draw_native_crop(rng(seed), (30, 40), (64, 96))
        boxes, _ = warp_boxes(np.array([[0.0, 0, 40, 30]]), (30, 40), params, (64, 96))
        np.testing.assert_allclose(boxes[0, 2:] - boxes[0, :2], [40, 30], rtol=1e-5)


def test_drawn_parameters_keep_their_ranges_and_reach_them() -> None:
    generator = rng()
    windows = [draw_jitter(generator) for _ in range(4000)]
    for first, size in (("left", "width"), ("top", "height")):
        start = np.array([getattr(w, first) for w in windows])
        length = np.array([getattr(w, size) for w in windows])
        assert -0.3 <= start.min() < -0.29
        assert 0.29 < start.max() <= 0.3
        assert 0.7 <= (start + length).min() < 0.71
        assert 1.29 < (start + length).max() <= 1.3
        assert 0.4 <= length.min() < 0.5
        assert 1.5 < length.max() <= 1.6
    assert 0.45 < np.mean([w.flip for w in windows]) < 0.55
    hue, saturation, exposure = np.array([draw_colour(generator) for _ in range(4000)]).T
    assert -0.1 <= hue.min() < -0.095
    assert 0.095 < hue.max() <= 0.1
    for factor in (saturation, exposure):
        assert 1 / 1.5 - 1e-6 <= factor.min() < 0.68
        assert 1.49 < factor.max() <= 1.5
        assert 0.45 < (factor < 1).mean() < 0.55
    assert abs(np.corrcoef(saturation, exposure)[0, 1]) < 0.05


def colour_reference(rgb: np.ndarray, hue: float, saturation: float, exposure: float) -> np.ndarray:
    h, s, v = colorsys.rgb_to_hsv(*rgb)
    return np.clip(colorsys.hsv_to_rgb((h + hue) % 1, s * saturation, v * exposure), 0, 1)


def test_colour_agrees_with_colorsys() -> None:
    generator = rng(1)
    levels = np.array([0, 0.2, 0.5, 1.0])
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)  # greys, black, white and ties among them
    pixels = np.concatenate([grid, generator.random((136, 3))])
    colours = np.array([[0, 1, 1], [0.1, 1.5, 1.5], [-0.1, 1 / 1.5, 1.5], [0.07, 1.5, 1 / 1.5], [0.5, 0, 1]])
    images = torch.from_numpy(pixels.T.reshape(1, 3, 10, 20)).expand(len(colours), -1, -1, -1)
    result = distort_colour(images, torch.from_numpy(colours)).numpy().reshape(len(colours), 3, -1)
    for colour, changed in zip(colours, result, strict=True):
        expected = np.array([colour_reference(p, *colour) for p in pixels])
        np.testing.assert_allclose(changed.T, expected, atol=1e-9)


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
