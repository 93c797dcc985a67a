from __future__ import annotations

import math

import pytest
import torch

from anchor_lightning.anchors import AnchorOptions, anchor_options, initial_shapes, num_shapes
from anchor_lightning.anchors.initialization import AnchorInit
from anchor_lightning.errors import UserError


@pytest.mark.parametrize(
    ("init", "num", "expected"),
    [
        ("uniform", None, [[96, 96], [96, 288], [288, 288], [288, 96], [192, 192]]),
        ("identical", None, [[160, 160]] * 5),
        ("identical", 3, [[160, 160]] * 3),
        ([[10, 20], [30, 40]], None, [[10, 20], [30, 40]]),
    ],
)
def test_named_sets_are_the_papers_in_pixels(init: AnchorInit, num: int | None, expected: list[list[int]]) -> None:
    shapes = initial_shapes(init, num)
    assert shapes is not None and shapes.tolist() == expected and num_shapes(init, num) == len(expected)
    assert initial_shapes("kmeans", 3) is None


def test_identical_shapes_that_learn_differ_a_little_so_that_rounding_does_not_decide_which_becomes_small() -> None:
    shapes = initial_shapes("identical", 3, learn=True)
    assert shapes is not None
    expected = [[160 * math.exp(-0.002)] * 2, [160, 160], [160 * math.exp(0.002)] * 2]
    torch.testing.assert_close(shapes, torch.tensor(expected))
    assert initial_shapes("identical", 1, learn=True).tolist() == [[160, 160]]  # type: ignore[union-attr]
    assert initial_shapes("uniform", learn=True).tolist() == initial_shapes("uniform").tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("init", "num", "argument", "message"),
    [
        ("uniform", 7, "anchors.num", "5 shapes.*kmeans or identical"),
        ("yolov2-voc", 3, "anchors.num", "5 shapes"),
        ([[1.0, 2.0]], 5, "anchors.num", "1 shapes"),
        ("kmeans", 0, "anchors.num", "0"),
        ([], None, "anchors.init", "empty"),
        ("unifrom", None, "anchors.init", "'unifrom'.*yolov2-voc"),
        ([[1.0, 2.0, 3.0]], None, "anchors.init", "3.0"),
        ([[1.0, -2.0]], None, "anchors.init", "1 x -2"),
    ],
)
def test_invalid_options(init: str | list[list[float]], num: int | None, argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        initial_shapes(init, num)
    assert caught.value.argument == argument


def test_options_from_a_dict() -> None:
    assert anchor_options({"num": 3}) == AnchorOptions(num=3)
    with pytest.raises(UserError, match=r"numb.*lr_mult"):
        anchor_options({"numb": 3})
