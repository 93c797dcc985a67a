"""Sizes, scales and ratios in the place of free shapes, and torchvision's and our readers' shapes from the texts."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models.detection.anchor_utils import AnchorGenerator

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import AnchorSet, anchors_text, read_shapes_file
from anchor_lightning.fitting.formats.grid_writers import grid_text
from anchor_lightning.fitting.size_grids import SizeGrid, fit_size_grid

SIZES, SCALES, RATIOS = [20.0, 50.0], [1.0, 1.5], [0.5, 2.0]
SHARED = SizeGrid(
    torch.outer(torch.tensor(SIZES), torch.tensor(SCALES)), torch.tensor(RATIOS).expand(2, -1), shared=True
)


def test_shapes_by_hand() -> None:
    """Of ratio h / w = 2 and side 20 the width is 20 / sqrt 2 and the height 20 * sqrt 2."""
    expected = torch.tensor([[20 * 2**0.5, 20 / 2**0.5], [20 / 2**0.5, 20 * 2**0.5]])
    torch.testing.assert_close(SHARED.wh[:2], expected)
    torch.testing.assert_close(SHARED.wh[2:4], expected * 1.5)
    torch.testing.assert_close(SHARED.wh[4:], SHARED.wh[:4] * 2.5)
    assert SHARED.sizes == SIZES and SHARED.scales == SCALES


@pytest.mark.parametrize("shared", [True, False])
def test_a_grid_is_found_again(shared: bool) -> None:
    """Boxes that are a grid cost next to nothing."""
    boxes = SHARED.wh.repeat(10, 1)
    grid = fit_size_grid(boxes, SHARED.wh, 2, shared)
    assert mean_best_iou(boxes, grid.wh) > 0.98 and grid.sides.shape == grid.ratios.shape == (2, 2)
    assert torch.equal(grid.wh, fit_size_grid(boxes, SHARED.wh, 2, shared).wh)


def test_free_levels_cost_less_than_shared_ones() -> None:
    boxes = torch.tensor([[20.0, 10.0], [30.0, 15.0], [80.0, 80.0], [90.0, 300.0]])
    bound, free = (mean_best_iou(boxes, fit_size_grid(boxes, boxes, 2, shared).wh) for shared in (True, False))
    assert bound < free <= 1


def test_levels_keep_their_boxes() -> None:
    """The smallest shapes stay on the first level, although another order would fit as well."""
    grid = fit_size_grid(SHARED.wh, SHARED.wh, 2, shared=False)
    assert grid.sides[0].max() < grid.sides[1].min()


def test_sizes_of_whole_pixels() -> None:
    wh = torch.tensor([[10.4, 10.4], [40.4, 40.4]])
    assert fit_size_grid(wh, wh, 2, True, whole_sizes=True).sizes == [10, 40]
    with pytest.raises(UserError, match="no boxes"):
        fit_size_grid(wh[:0], wh, 2, True)


def test_texts_are_what_the_tools_read(tmp_path: Path) -> None:
    """keras-retinanet splits at single blanks; detectron2's generator is torchvision's in whole but rounding."""
    anchors = AnchorSet(SHARED.wh, (4, 4), image_size=(416, 608), resize="letterbox")
    ini = configparser.ConfigParser()
    ini.read_string(grid_text(anchors, SHARED, "retinanet", "cost"))
    read = {name: [float(word) for word in row.split(" ")] for name, row in ini["anchor_parameters"].items()}
    assert read == {"sizes": SIZES, "strides": [8, 16], "ratios": RATIOS, "scales": SCALES}
    text = grid_text(anchors, SHARED, "detectron2", "cost")
    generator = yaml.safe_load(text)["MODEL"]["ANCHOR_GENERATOR"]
    cells = AnchorGenerator(tuple(map(tuple, generator["SIZES"])), tuple(map(tuple, generator["ASPECT_RATIOS"])))
    sides = torch.cat([cell[:, 2:] - cell[:, :2] for cell in cells.cell_anchors])
    ours = SHARED.wh.reshape(2, 2, 2, 2).transpose(1, 2).reshape(8, 2)  # torchvision's run over the scales first
    torch.testing.assert_close(sides, ours, atol=1.0, rtol=0)
    assert "608 x 416" in text and "# cost\n" in text and "MIN_SIZE_TRAIN" in text
    (tmp_path / "base.py").write_text(
        "model = dict(bbox_head=dict(anchor_generator=dict(octave_base_scale=4, scales_per_octave=3, strides=[8, 16])))"
    )
    (tmp_path / "a.py").write_text("_base_ = 'base.py'\n" + grid_text(anchors, SHARED, "mmdet-anchor", "cost"))
    back = read_shapes_file(tmp_path / "a.py")
    assert back.per_level == (4, 4) and back.image_size == (416, 608)
    torch.testing.assert_close(back.wh.sum(0), SHARED.wh.sum(0))


def test_free_texts_are_refused() -> None:
    with pytest.raises(UserError, match="to: retinanet knows sizes"):
        anchors_text(AnchorSet(SHARED.wh), "retinanet")
