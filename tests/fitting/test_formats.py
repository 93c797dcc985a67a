"""Texts for other tools, read as these read them, and torchvision's own generator built from its text."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from anchor_lightning.anchors import initial_shapes
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import AnchorSet, anchors_text, export_notes, read_json, read_shapes_file

# Not in the order of their areas.
NINE = torch.tensor(
    [[33.0, 23], [10, 13], [16, 30], [62, 45], [30, 61], [59, 119], [373, 326], [116, 90], [156, 198]]
)  # YOLOv3's
SORTED = [[10.0, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]
SET = AnchorSet(NINE, (), "a test\nof two lines", (416, 608), {"mean best IoU": 0.6543}, "letterbox").in_levels(3)
SIDES = st.floats(1, 1000, width=32)


def run(text: str) -> dict[str, Any]:
    """The variables of a Python text."""
    scope: dict[str, Any] = {}
    exec(text, scope)
    return scope


def test_darknets_region_layer_has_grid_units(tmp_path: Path) -> None:
    wh = initial_shapes("yolov2-voc")
    assert wh is not None
    text = anchors_text(AnchorSet(wh, source="yolov2-voc"), "darknet")
    assert "[region]\nanchors=1.3221" in text and "num=5" in text
    (tmp_path / "a.cfg").write_text(text)
    back = read_shapes_file(tmp_path / "a.cfg")
    torch.testing.assert_close(back.wh, wh)
    assert back.levels == 1


def test_darknets_yolo_layers_have_pixels_and_the_largest_stride_first(tmp_path: Path) -> None:
    text = anchors_text(SET, "darknet")
    (tmp_path / "a.cfg").write_text(text)
    back = read_shapes_file(tmp_path / "a.cfg")
    assert back.wh.tolist() == SORTED and back.per_level == (3, 3, 3)
    layers = text.split("\n[yolo]\n")[1:]
    assert [layer.split("mask=")[1].split()[0] for layer in layers] == ["6,7,8", "3,4,5", "0,1,2"]
    assert "anchors=10,13,  16,30,  33,23" in text and text.count("num=9") == 3
    assert "mask=0,1" in anchors_text(AnchorSet(NINE[:2]), "darknet", version=3)


def test_ultralytics_has_a_row_a_level_smallest_stride_first_and_mmdet_the_largest() -> None:
    text = anchors_text(SET, "ultralytics")
    # The form that YOLOv5's own yaml files have.
    assert yaml.safe_load(text)["anchors"] == torch.tensor(SORTED).reshape(3, 6).tolist()
    assert "# P3/8" in text and "# P5/32" in text
    generator = run(anchors_text(SET, "mmdet"))["model"]["bbox_head"]["anchor_generator"]
    assert generator["type"] == "YOLOAnchorGenerator" and generator["strides"] == [32, 16, 8]
    assert generator["base_sizes"] == [[tuple(shape) for shape in SORTED[i : i + 3]] for i in (6, 3, 0)]


@pytest.mark.parametrize("levels", [1, 9])
def test_torchvision_builds_its_generator(levels: int) -> None:
    """And places the shapes, unrounded, on the cells of every feature map."""
    generator = run(anchors_text(AnchorSet(NINE + 0.3).in_levels(levels), "torchvision"))["anchor_generator"]
    assert generator.num_anchors_per_location() == [9 // levels] * levels
    images = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])
    (anchors,) = generator(images, [torch.zeros(1, 1, 2, 2)] * levels)
    shapes = (anchors[:, 2:] - anchors[:, :2]).reshape(levels, 4, -1, 2)  # 4 cells a map
    torch.testing.assert_close(shapes, (torch.tensor(SORTED) + 0.3).reshape(levels, 1, -1, 2).expand_as(shapes))


def test_json_comes_back_whole() -> None:
    """And without levels' sizes and the way of resizing, as files from before these were noted."""
    back = read_json(anchors_text(SET, "json"))
    assert back.wh.tolist() == SORTED
    assert back == replace(SET, wh=back.wh)
    content = json.loads(anchors_text(SET, "json"))
    del content["resize"], content["per_level"]
    older = read_json(json.dumps(content))
    assert older.resize is None and older.per_level == (3, 3, 3)
    with pytest.raises(UserError, match=r"no anchors\.json"):
        read_json(json.dumps(content | {"resize": "torn"}))


@pytest.mark.parametrize(
    ("to", "resize", "levels", "message"),
    [
        ("ultralytics", "stretch", 3, "fit again with resize letterbox."),
        ("mmdet", "stretch", 3, "keep_ratio=False"),
        ("darknet", "letterbox", 3, "resize stretch, or set letter_box=1"),
        ("ultralytics", "native", 3, "native scale"),
        ("torchvision", "native", 3, "native scale"),
        ("torchvision", None, 3, "fixed_size=(608, 416), which stretches images, or min_size=416, max_size=608"),
        ("torchvision", None, 1, "1 of them suit FasterRCNN on a backbone without FPN. Fit again with levels 5"),
        ("torchvision", None, 3, "3 of them suit FasterRCNN on the FPN of a MobileNetV3. Fit again with levels 5"),
        (
            "torchvision",
            None,
            5,
            "5 of them suit FasterRCNN or RetinaNet on the FPN of a ResNet",
        ),
        ("torchvision", None, 9, "9 feature maps. Fit again with levels 5"),
    ],
)
def test_a_tool_that_resizes_or_divides_otherwise_gets_a_note(to: Any, resize: Any, levels: int, message: str) -> None:
    """In the notes and, on lines of their own, in the text."""
    anchors = replace(SET, wh=NINE.repeat(5, 1), per_level=(), resize=resize).in_levels(levels)
    comments = [line.removeprefix("# ") for line in anchors_text(anchors, to).splitlines() if line.startswith("# ")]
    notes = export_notes(anchors, to)
    assert message in " ".join(notes) and " ".join(notes) in " ".join(comments)


def test_a_tool_that_resizes_alike_needs_no_note() -> None:
    alike: Any = [("mmdet", "letterbox"), ("json", "native")]
    for to, resize in [*alike, ("mmdet", None)]:
        assert export_notes(replace(SET, resize=resize), to) == []
    assert "YOLOv8 and later) are anchor-free" in "".join(export_notes(SET, "ultralytics"))
    assert "original C darknet letterboxes" in "".join(export_notes(replace(SET, resize="stretch"), "darknet"))


def torchvisions_detector(levels: int, retina: bool, generator: Any, **options: Any) -> Any:
    """An untrained detector that the note on levels names, with the smallest backbone of its kind."""
    small: dict[str, Any] = {"backbone_name": "resnet18", "weights": None}
    if retina:
        backbone = resnet_fpn_backbone(**small, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
        return RetinaNet(backbone, 2, anchor_generator=generator, **options).eval()
    if levels == 5:
        backbone = resnet_fpn_backbone(**small)
    else:
        backbone = mobilenet_backbone(backbone_name="mobilenet_v3_small", weights=None, fpn=levels == 3)
    return FasterRCNN(backbone, 2, rpn_anchor_generator=generator, **options).eval()


@pytest.mark.parametrize(
    ("levels", "retina", "resize"),
    [(1, False, "stretch"), (3, False, "letterbox"), (5, False, "letterbox"), (5, True, "stretch")],
)
def test_torchvisions_detectors_take_what_the_notes_say(levels: int, retina: bool, resize: Any) -> None:
    """Options of the note and the text's generator: the detector runs, and its input has the size of the shapes'."""
    anchors = AnchorSet(torch.rand(2 * levels, 2) * 30 + 10, (2,) * levels, image_size=(64, 96), resize=resize)
    scope = run(anchors_text(anchors, "torchvision"))
    words = export_notes(anchors, "torchvision")[-1].split("give the detector ")[1].split(", which")[0]
    options = eval(f"dict({words})", {"dict": dict})
    detector = torchvisions_detector(levels, retina, generator=scope["anchor_generator"], **options)
    batches: list[Any] = []
    detector.transform.register_forward_hook(lambda _, __, out: batches.append(out[0]))
    with torch.no_grad():
        detector([torch.rand(3, 128, 160)])
    (batch,) = batches
    assert batch.tensors.shape[-2:] == (64, 96)
    # Aspect kept, 160 x 128 pixels (w x h) become 80 x 64, which torchvision pads to a multiple of 32.
    assert batch.image_sizes == [(64, 96) if resize == "stretch" else (64, 80)]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=6, max_size=6), st.sampled_from([2, 3]))
def test_round_trips_to_five_digits_and_json_to_the_last_bit(sides: list[tuple[float, float]], levels: int) -> None:
    anchors = AnchorSet(torch.tensor(sides)).in_levels(levels)
    expected = torch.tensor(anchors.by_level)
    assert float(expected.sum()) == pytest.approx(float(anchors.wh.sum()))
    rows = yaml.safe_load(anchors_text(anchors, "ultralytics"))["anchors"]
    close = partial(torch.testing.assert_close, rtol=5e-5, atol=0, check_dtype=False)  # whole numbers come back as int
    close(torch.tensor(rows).reshape(expected.shape), expected)
    rows = run(anchors_text(anchors, "mmdet"))["model"]["bbox_head"]["anchor_generator"]["base_sizes"]
    close(torch.tensor(rows[::-1]), expected)
    close(torch.tensor(run(anchors_text(anchors, "torchvision"))["anchor_wh"]), expected)
    assert torch.equal(read_json(anchors_text(anchors, "json")).wh, expected.flatten(0, 1))


@pytest.mark.parametrize("to", ["darknet", "ultralytics", "mmdet", "torchvision"])
def test_source_and_score_stand_in_comments(to: Any) -> None:
    head = anchors_text(SET, to).splitlines()[:3]
    assert all(line.startswith("# ") for line in head)
    assert "608 x 416" in head[0] and "a test of two lines" in head[1] and "mean best IoU 0.6543" in head[2]


@pytest.mark.parametrize(
    ("to", "levels", "version", "message"),
    [
        ("ultralytics", 1, None, "to: .* are for 1"),
        ("mmdet", 9, None, "to: .* are for 9"),
        ("darknet", 3, 2, "version: .*not 3"),
        ("darknet", 3, 4, "version: 4"),
        ("mmdet", 3, 3, "version: .*darknet"),
    ],
)
def test_what_a_tool_cannot_express(to: Any, levels: int, version: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        anchors_text(AnchorSet(NINE).in_levels(levels), to, version)


def test_what_is_no_set() -> None:
    for levels in (2, 0):
        with pytest.raises(UserError, match="levels"):
            AnchorSet(NINE).in_levels(levels)
    bad: Any = [(NINE, (4, 4), "per_level"), (NINE, (0, 9), "per_level"), (NINE * 0, (), "positive")]
    for wh, per_level, message in [*bad, (NINE[:0], (), "no shapes")]:
        with pytest.raises(UserError, match=message):
            AnchorSet(wh, per_level)
    for text in ("", "{", "{}", "[1]", '{"format": "anchor_lightning anchors"}'):
        with pytest.raises(UserError, match=r"anchors\.json"):
            read_json(text)
