from __future__ import annotations

import pytest
import torch

from anchor_lightning.anchors import AnchorOptions, anchor_options, initial_shapes, num_shapes
from anchor_lightning.errors import UserError


def test_named_sets_are_the_papers_in_pixels() -> None:
    uniform = initial_shapes("uniform")
    assert uniform is not None
    assert uniform.tolist() == [[96, 96], [96, 288], [288, 288], [288, 96], [192, 192]]
    identical = initial_shapes("identical", 3)
    assert identical is not None
    assert identical.tolist() == [[160, 160]] * 3
    voc, coco = initial_shapes("yolov2-voc"), initial_shapes("yolov2-coco")
    assert voc is not None and coco is not None
    # 32 x the anchors of YOLOv2's published yolov2-voc.cfg and yolov2.cfg.
    torch.testing.assert_close(voc[0], torch.tensor([42.3072, 55.4064]))
    torch.testing.assert_close(coco[-1], torch.tensor([312.65664, 293.38496]))
    listed = initial_shapes([[10, 20], [30, 40], [50, 60]])
    assert listed is not None and listed.tolist() == [[10, 20], [30, 40], [50, 60]]
    assert num_shapes([[10, 20]], None) == 1 and initial_shapes("kmeans", 3) is None


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
