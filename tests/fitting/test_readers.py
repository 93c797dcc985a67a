"""Shapes in the files of other tools: darknet's .cfg, YOLOv5's .yaml, mmdet's .py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from anchor_lightning.detectors.yolov2.darknet_cfg import cfg_text
from anchor_lightning.detectors.yolov3.darknet_cfg import cfg_text as yolov3_text
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import AnchorSet, anchors_text, read_shapes_file

SIX = "10,14,  23,27,  37,58,  81,82,  135,169,  344,319"  # of YOLOv4-tiny


def read(path: Path, text: str) -> AnchorSet:
    """What is read of a file with that text."""
    path.write_bytes(text.encode())
    return read_shapes_file(path)


def message(path: Path, text: str) -> str:
    """What a file with that text is refused with."""
    with pytest.raises(UserError, match=path.name) as error:
        read(path, text)
    return error.value.message


def yolo(mask: str, anchors: str = SIX, num: int = 6, kind: str = "yolo") -> str:
    """A layer as darknet's files write it, on lines of Windows."""
    return f"[{kind}]\r\nmask = {mask}\r\nanchors = {anchors}\r\n# a comment\r\nnum={num}\r\n\r\n"


# darknet


def test_grid_units_become_pixels_and_pixels_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.cfg"
    read_here = read(path, "[net]\nwidth=416\n[region]\n# a comment\nanchors =  1.3221, 1.73145,  3, 4\nnum=2\n")
    torch.testing.assert_close(read_here.wh, torch.tensor([[42.3072, 55.4064], [96, 128]]))
    assert read(path, "[yolo]\nmask=0\nanchors = 10,13, 16,30\n[yolo]\nmask=1\nanchors = 10,13, 16,30\n").per_level == (
        1,
        1,
    )
    assert read_shapes_file(path).wh.tolist() == [[10, 13], [16, 30]]
    wh = torch.rand(9, 2) * 400 + 1
    own = read(path, cfg_text(wh, 20, (416, 608)))
    assert torch.equal(own.wh, wh) and own.image_size == (416, 608), "to the bit"


@pytest.mark.parametrize("kind", ["yolo", "Gaussian_yolo"])
def test_levels_of_masks_and_the_size_of_net(tmp_path: Path, kind: str) -> None:
    """Largest stride first in the file; the first of two lists of a layer counts, as in the C code."""
    net = "[net]\r\nheight=416\r\nwidth=608\r\nletter_box=1\r\n"
    text = net + yolo("3,4,5", kind=kind) + yolo("1,2,3", f"{SIX}\r\nanchors = 1,1", kind=kind)
    found = read(tmp_path / "tiny.cfg", text)
    assert found.by_level == [[[23, 27], [37, 58], [81, 82]], [[81, 82], [135, 169], [344, 319]]]
    assert found.image_size == (416, 608) and found.resize == "letterbox" and "without 10 x 14" in found.source
    assert read(tmp_path / "b.cfg", net.replace("=1\r", "=0\r") + yolo("0")).resize == "stretch"
    assert read(tmp_path / "c.cfg", yolo("0")).resize is None, "the original letterboxes, AlexeyAB's stretches"


def test_each_layer_may_have_a_list_of_its_own(tmp_path: Path) -> None:
    found = read(tmp_path / "two.cfg", yolo("0,1", "100,100, 200,200", 2) + yolo("1", "5,5, 10,20", 2))
    assert found.by_level == [[[10, 20]], [[100, 100], [200, 200]]]


DRIFTED = torch.tensor([[90.0, 80], [6, 8], [10, 14], [300, 200], [20, 30], [8, 8]])  # areas fall where strides rise


def test_levels_are_ordered_by_their_stride_and_not_by_their_shapes(tmp_path: Path) -> None:
    """Of a whole network by its layers; of layers with anchors alone by the places in the list that they share."""
    text = yolov3_text(DRIFTED, 2, (96, 96), 0.1, num_per_level=(1, 3, 2))
    found = read(tmp_path / "drifted.cfg", text)
    assert found.per_level == (1, 3, 2) and torch.equal(found.wh, DRIFTED)
    six = ", ".join(f"{w:g},{h:g}" for w, h in DRIFTED.tolist())
    found = read(tmp_path / "layers.cfg", yolo("5,4", six) + yolo("1,3,2", six) + yolo("0", six))
    assert found.per_level == (1, 3, 2) and torch.equal(found.wh, DRIFTED[[0, 1, 3, 2, 5, 4]])
    # YOLOv4's heads come the other way round, behind convolutions that halve again.
    heads = [f"[yolo]\nmask={mask}\nanchors={six}\n" for mask in ("4,5", "0")]
    down = "[convolutional]\nstride=2\n"
    text = f"{down}[maxpool]\nstride=2\n{heads[0]}[route]\nlayers=-2\n[convolutional]\nsize=1\n{down}{heads[1]}"
    assert torch.equal(read(tmp_path / "v4.cfg", text).wh, DRIFTED[[4, 5, 0]])
    text = f"{down}{down}{heads[1]}[upsample]\n[route]\nlayers=-1,0\n{heads[0]}"
    assert torch.equal(read(tmp_path / "v3.cfg", text).wh, DRIFTED[[4, 5, 0]])
    for broken in ("[route]\nlayers=-9\n", "[route]\nlayers=x\n", "[upsample]\nstride=0\n"):
        assert torch.equal(read(tmp_path / "v3.cfg", broken + text).wh, DRIFTED[[0, 4, 5]]), "by the masks"


@pytest.mark.parametrize("to", ["ultralytics", "mmdet"])
def test_shapes_that_have_left_the_order_of_areas_stay_on_their_levels(tmp_path: Path, to: Any) -> None:
    anchors = AnchorSet(torch.tensor([[10.0, 13], [90, 80], [60, 50]]), (1, 1, 1))  # those of stride 16 are the largest
    found = read(tmp_path / f"a.{SUFFIXES[to]}", anchors_text(anchors, to))
    assert torch.equal(found.wh, anchors.wh) and found.per_level == (1, 1, 1)


def test_levels_of_yolov5_that_come_the_largest_first_are_turned_round(tmp_path: Path) -> None:
    """As its own check of the order does."""
    found = read(tmp_path / "a.yaml", "anchors: [[116, 90], [156, 198], [10, 13]]\n")
    assert found.wh.tolist() == [[10, 13], [156, 198], [116, 90]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[net]\nwidth=416\n", "no [region] or [yolo] layer"),
        ("[region]\nanchors=1,2,3\n", "3 numbers"),
        ("[region]\nanchors=a,b\n", "no numbers"),
        ("[region]\nanchors=1,2,3,4\nnum=1\n", "are 2 pairs, but num=1: darknet takes num pairs"),
        ("[yolo]\nanchors=1,2,3,4\nnum=3\nmask=0\n", "are 2 pairs, but num=3"),
        ("[region]\nanchors=\n", "0 numbers"),
        ("[region]\nanchors=0, 1\n", "anchors of [region] must be positive"),
        ("[region]\nanchors=1, 1, inf, 2\n", "anchors of [region] must be positive"),
        ("[region]\nanchors=1, 1e38\n", "must be positive"),
        (yolo("6"), "mask of [yolo] is 6, which must be places from 0 to 5"),
        (yolo("a"), "mask of [yolo] is a"),
        (yolo(""), "mask of [yolo]"),
        (yolo("0") + "[yolo]\nmask=1\n", "anchors of [yolo] are 0 numbers"),
    ],
)
def test_invalid_cfg(tmp_path: Path, text: str, said: str) -> None:
    assert said in message(tmp_path / "bad.cfg", text)


# YOLOv5


def test_model_yaml_of_yolov5(tmp_path: Path) -> None:
    """Lists or pairs, a level each, letterboxed; the file does not know its size."""
    path = tmp_path / "v5.yaml"
    found = read(path, "nc: 80\nanchors:\n  - [10,13, 16,30]  # P3/8\n  - [[116, 90], [156, 198]]\nbackbone: []\n")
    assert found.by_level == [[[10, 13], [16, 30]], [[116, 90], [156, 198]]]
    assert found.resize == "letterbox" and found.image_size is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nc: 80\n", "has no `anchors:`"),
        ("anchors: 3\n", "is a number of shapes that YOLOv5 fits itself"),
        ("anchors: [[10, 13, 16]]\n", "no list of levels"),
        ("anchors: [[10, -13]]\n", "no list of levels"),
        ("anchors: [10, 13]\n", "no list of levels"),
        ("anchors: []\n", "no list of levels"),
        ("anchors: [[a, b]]\n", "no list of levels"),
        ("anchors: [\n", "no YAML"),
        ("- 3\n", "has no `anchors:`"),
    ],
)
def test_invalid_yaml(tmp_path: Path, text: str, said: str) -> None:
    assert said in message(tmp_path / "bad.yaml", text)


# mmdet

YOLOV3 = """
_base_ = '../_base_/default_runtime.py'
data_preprocessor = dict(type='DetDataPreprocessor', bgr_to_rgb=True)
model = dict(type='YOLOV3', data_preprocessor=data_preprocessor, bbox_head=dict(
    type='YOLOV3Head', anchor_generator=dict(type='YOLOAnchorGenerator',
        base_sizes=[[(116, 90), (156, 198)], [(30, 61), (62, 45)], [(10, 13), (16, 30)]], strides=[32, 16, 8])))
test_pipeline = [dict(type='LoadImageFromFile', a=None), dict(type='Resize', scale=(608, 416), keep_ratio=True)]
"""
RETINANET = """
size = 4
model = dict(bbox_head=dict(anchor_generator=dict(type=AnchorGenerator, octave_base_scale=size, scales_per_octave=2,
    ratios=[1 / 4, 1.0, 2 ** 2], strides=[8, 16])))
"""
SSD = """
model = dict(bbox_head=dict(anchor_generator=dict(type='SSDAnchorGenerator', scale_major=False, input_size=300,
    basesize_ratio_range=(0.15, 0.9), strides=[8, 16, 32, 64, 100, 300],
    ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]])))
test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(300, 300),
    transforms=[dict(type='Resize', keep_ratio=False)])]
"""


def test_yolo_of_mmdet(tmp_path: Path) -> None:
    found = read(tmp_path / "yolov3.py", YOLOV3)
    assert found.by_level == [[[10, 13], [16, 30]], [[30, 61], [62, 45]], [[116, 90], [156, 198]]]
    assert found.image_size == (416, 608) and found.resize == "letterbox"


def test_anchor_generator_of_mmdet(tmp_path: Path) -> None:
    """Strides times scales 4 and 4 * sqrt 2; of ratio 1/4 (h / w) the width is twice the side, the height half."""
    found = read(tmp_path / "retinanet.py", RETINANET)
    assert found.per_level == (6, 6) and found.image_size is None
    expected = [[64, 16], [32, 32], [16, 64]]
    torch.testing.assert_close(found.wh[[0, 2, 4]], torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(found.wh[[1, 3, 5]], found.wh[[0, 2, 4]] * 2**0.5)
    torch.testing.assert_close(found.wh[6:], found.wh[:6] * 2)


def test_ssd_of_mmdet(tmp_path: Path) -> None:
    """SSD300 on COCO: 21 and 45 pixels on the first level, as the paper's 0.07 and 0.15 of 300."""
    found = read(tmp_path / "ssd.py", SSD)
    assert found.per_level == (4, 6, 6, 6, 4, 4) and found.image_size == (300, 300) and found.resize == "stretch"
    first = [[21, 21], [(21 * 45) ** 0.5] * 2, [21 * 2**0.5, 21 / 2**0.5], [21 / 2**0.5, 21 * 2**0.5]]
    torch.testing.assert_close(found.wh[:4], torch.tensor(first))
    assert found.wh[4].tolist() == [45, 45] and found.wh[-4].tolist() == [261, 261]


def test_a_base_of_mmdet_is_laid_under(tmp_path: Path) -> None:
    """`_delete_` takes what it lies over away."""
    (tmp_path / "base.py").write_text(RETINANET)
    change = "_base_ = ['./base.py']\nmodel = dict(bbox_head=dict(anchor_generator=dict(strides=[8, 16, 32])))\n"
    assert read(tmp_path / "child.py", change).per_level == (6, 6, 6)
    other = "dict(_delete_=True, type='AnchorGenerator', strides=[4], ratios=[1.0], scales=[8])"
    found = read(tmp_path / "child.py", f"_base_ = 'base.py'\nmodel = dict(bbox_head=dict(anchor_generator={other}))\n")
    assert found.wh.tolist() == [[32, 32]]


def test_configs_are_never_run(tmp_path: Path) -> None:
    found = read(tmp_path / "a.py", f"import os\nos.mkdir({str(tmp_path / 'made')!r})\n{RETINANET}")
    assert len(found.wh) == 12 and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (", "no Python"),
        ("model = dict(type='YOLOX')", "no YOLOAnchorGenerator, AnchorGenerator, SSDAnchorGenerator"),
        (RETINANET + "model.update(a=1)\n", "line 5: `model` is changed there"),
        (
            RETINANET.replace("strides=[8, 16]", "strides=[2 ** i for i in (3, 4)]"),
            "line 4: a part of AnchorGenerator is",
        ),
        (
            RETINANET.replace("strides=[8, 16]", "center_offset=0.5"),
            "AnchorGenerator cannot be read: it lacks 'strides'",
        ),
        (RETINANET.replace("strides=[8, 16]", "strides=8"), "AnchorGenerator cannot be read"),
        (RETINANET.replace("1 / 4", "1 / 0"), "is computed there"),
        (RETINANET.replace("1 / 4", "-4"), "AnchorGenerator cannot be read"),
        (RETINANET + "model = dict(a=dict(type='AnchorGenerator'), b=dict(type='AnchorGenerator', x=1))", "several"),
        (SSD.replace("input_size=300", "input_size=320"), "320 pixels and shares from 0.15 are not known"),
        ("_base_ = 'gone.py'\nmodel = dict()", "(its _base_ gone.py is not here)"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_invalid_configs_of_mmdet(tmp_path: Path, text: str, said: str) -> None:
    assert said in message(tmp_path / "bad.py", text)


# What all have in common


SUFFIXES: dict[Any, str] = {"darknet": "cfg", "ultralytics": "yaml", "mmdet": "py", "json": "json"}


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize("resize", ["stretch", "letterbox", None])
def test_what_is_written_comes_back_with_its_frame(tmp_path: Path, to: Any, resize: Any) -> None:
    anchors = AnchorSet(torch.tensor([[10.5, 13], [30, 20], [60, 50], [99, 70]]), (2, 2), "", (416, 608), {}, resize)
    found = read(tmp_path / f"a.{SUFFIXES[to]}", anchors_text(anchors, to))
    assert found.by_level == anchors.by_level and found.image_size == (416, 608)
    assert found.resize == (resize or ("letterbox" if to == "ultralytics" else None))


def test_other_suffixes(tmp_path: Path) -> None:
    assert "a darknet .cfg" in message(tmp_path / "a.txt", "")
