"""YOLOv3's darknet files: OpenCV's importer computes and finds the same, and they come back to the bit."""

from __future__ import annotations

import copy
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.ops import box_convert

from anchor_lightning.anchors import AnchorOptions, initial_shapes
from anchor_lightning.detectors import RetinaNet, YOLOv2, YOLOv3
from anchor_lightning.detectors.backbones import DarkNet53
from anchor_lightning.detectors.yolo.darknet_weights import read_backbone, read_weights, write_weights
from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.detectors.yolo.postprocess import boxes_and_scores
from anchor_lightning.detectors.yolov3.darknet_cfg import cfg_text
from anchor_lightning.detectors.yolov3.network import YOLOv3Network
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import read_shapes_file
from anchor_lightning.fitting.initial import resolve_anchors
from tests.detectors.yolov2.test_darknet_weights import randomised
from tests.helpers.opencv_reference import cv2, needs_importer

THRESHOLD = 0.01


def made(
    num_classes: int = 4, bn_without_shift: bool = False, num_per_level: Sequence[int] = (3, 3, 3)
) -> YOLOv3Network:
    """Made weights; the residuals are small, so that 23 of them keep the activations of order 1."""
    network = randomised(YOLOv3Network(num_per_level, num_classes, 0.1, bn_without_shift))
    for level in network.backbone.levels:
        for block in list(level)[1:]:
            block[1][1].weight.data.mul_(0.3)
    return network


@needs_importer
@pytest.mark.parametrize("num_per_level", [(3, 3, 3), (4, 2, 3)])
def test_opencv_computes_and_finds_the_same(tmp_path: Path, num_per_level: tuple[int, ...]) -> None:
    network, wh = made(num_per_level=num_per_level), initial_shapes("yolov3-coco")
    assert wh is not None
    (tmp_path / "net.cfg").write_text(cfg_text(wh, 4, (96, 160), 0.1, THRESHOLD, num_per_level=num_per_level))
    write_weights(tmp_path / "net.weights", network, 0)
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "net.cfg"), str(tmp_path / "net.weights"))
    image = torch.rand(1, 3, 96, 160)
    net.setInput(image.numpy())
    with torch.no_grad():
        levels = network(image)
    raws = net.forward(["conv_81", "conv_93", "conv_105"])  # strides 32, 16, 8
    for theirs, level in zip(raws, reversed(levels), strict=True):
        assert level.raw.std() > 0.1
        torch.testing.assert_close(level.raw.flatten(1, 2), torch.from_numpy(theirs), atol=1e-4, rtol=1e-4)
    net.setInput(image.numpy())
    found = net.forward(["yolo_82", "yolo_94", "yolo_106"])
    total = 0
    for rows, level, shapes in zip(found, reversed(levels), reversed(wh.split(list(num_per_level))), strict=True):
        boxes, scores = boxes_and_scores(level.raw, shapes.log(), level.stride, multi_label=True)
        # In the order of OpenCV's rows: cells, then anchors.
        boxes, scores = (
            part[0].unflatten(0, (len(shapes), -1)).transpose(0, 1).flatten(0, 1) for part in (boxes, scores)
        )
        theirs = torch.from_numpy(rows)
        side = torch.tensor([160.0, 96.0, 160.0, 96.0])
        corners = box_convert(theirs[:, :4] * side, "cxcywh", "xyxy").maximum(-side).minimum(2 * side)
        torch.testing.assert_close(corners, boxes, atol=2e-2, rtol=1e-3)
        both = (theirs[:, 5:] > 0) & (scores > THRESHOLD)
        assert ((theirs[:, 5:] > 0) ^ (scores > THRESHOLD)).sum() <= both.sum() // 100
        torch.testing.assert_close(theirs[:, 5:][both], scores[both], atol=1e-4, rtol=1e-3)
        total += int(both.sum())
    assert total > 50


@pytest.mark.parametrize("bn_without_shift", [False, True])
def test_written_and_read_again_is_the_same(tmp_path: Path, bn_without_shift: bool) -> None:
    """To the bit without the norm; with it in evaluation, and folded again."""
    plain = made()
    write_weights(tmp_path / "w", plain, 7)
    network = YOLOv3Network([3] * 3, 4, 0.1, bn_without_shift, 0.3).eval()
    assert read_weights(tmp_path / "w", network, "YOLOv3") == 7
    if not bn_without_shift:
        counted = {name: value for name, value in plain.state_dict().items() if "num_batches" not in name}
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in counted.items())
    again = copy.deepcopy(network)
    again.fold()
    write_weights(tmp_path / "again", again, 7)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for ours, folded, expected in zip(network(image), again(image), plain(image), strict=True):
            torch.testing.assert_close(ours.raw, expected.raw, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(folded.raw, expected.raw, atol=1e-4, rtol=1e-4)
    assert bn_without_shift or (tmp_path / "w").read_bytes() == (tmp_path / "again").read_bytes()


def test_another_file_names_both_sizes(tmp_path: Path) -> None:
    write_weights(tmp_path / "w", made(num_classes=7), 0)
    with pytest.raises(UserError, match=r"a YOLOv3 with 9 shapes and 4 classes.*size is that of 7 classes"):
        read_weights(tmp_path / "w", YOLOv3Network([3] * 3, 4, 0.1), "YOLOv3")


def test_sizes_of_the_published_files() -> None:
    """yolov3.weights has 248,007,048 bytes, darknet53.conv.74 162,482,580: a header of 20, and four-byte floats."""
    with torch.device("meta"):
        network = YOLOv3Network([3] * 3, 80, bn_without_shift=False)
    for module, size in ((network, 248_007_048), (network.backbone, 162_482_580)):
        assert 20 + 4 * sum(v.numel() for v in module.state_dict().values() if v.is_floating_point()) == size


def test_a_backbone_is_read_to_its_end(tmp_path: Path) -> None:
    backbone = DarkNet53(0.1)
    count = sum(value.numel() for value in backbone.state_dict().values() if value.is_floating_point())
    numbers = torch.arange(1, count + 1, dtype=torch.float32)
    (tmp_path / "b").write_bytes(struct.pack("<iiiq", 0, 2, 0, 5) + numbers.numpy().tobytes())
    assert read_backbone(tmp_path / "b", backbone) == 5
    assert backbone.stem[1].bias[0] == 1 and backbone.levels[-1][-1][1][0].weight.flatten()[-1] == numbers[-1]


def test_the_cfg_has_three_levels_with_masks(tmp_path: Path) -> None:
    wh = initial_shapes("yolov3-coco")
    assert wh is not None
    (tmp_path / "net.cfg").write_text(cfg_text(wh * 1.1, 20, (416, 608)))
    found = read_shapes_file(tmp_path / "net.cfg")
    assert found.per_level == (3, 3, 3) and torch.equal(found.wh, wh * 1.1) and found.image_size == (416, 608)
    text = (tmp_path / "net.cfg").read_text()
    # What the published configuration has at these places.
    assert [line for line in text.splitlines() if line.startswith(("mask", "layers"))] == [
        *("mask=6,7,8", "layers=-4", "layers=-1, 61", "mask=3,4,5", "layers=-4", "layers=-1, 36", "mask=0,1,2"),
    ]
    assert text.count("filters=75\n") == 3


def test_shapes_of_a_file_stay_on_its_levels(tmp_path: Path) -> None:
    """Other numbers on the levels, and areas that do not rise with the strides, there and back."""
    wh = torch.tensor([[90.0, 80], [6, 8], [10, 14], [300, 200], [20, 30], [8, 8]])
    (tmp_path / "net.cfg").write_text(cfg_text(wh, 2, (96, 64), 0.1, num_per_level=(1, 3, 2)))
    options = resolve_anchors(AnchorOptions(str(tmp_path / "net.cfg")), (96, 64))
    detector = YOLOv3(2, options, width=0.1)
    assert detector.shapes.num_per_level == [1, 3, 2] and torch.equal(detector.shapes.wh, wh.log().exp())
    assert [head.num_anchors for head in detector.network.heads] == [2, 3, 1], (
        "the largest stride first, as in the file"
    )
    (tmp_path / "again.cfg").write_text(detector.darknet_cfg((96, 64), 0.005, "again"))
    assert read_shapes_file(tmp_path / "again.cfg").per_level == (1, 3, 2)
    assert YOLOv2(2, options, width=0.1).shapes.num_per_level == [6], "one level takes all"


@pytest.mark.parametrize(
    ("init", "num", "said"),
    [
        ("yolov2-voc", None, "5 shapes do not divide equally among the 3 levels of YOLOv3"),
        ("kmeans", 4, "4 shapes do not divide equally"),
        ("uniform", 6, "anchors.num: 6, but 'uniform' has 9 shapes in YOLOv3"),
        ([[[9, 9]], [[20, 20], [30, 20]]], None, "shapes on 2 levels, but YOLOv3 has 3"),
        ([[[9, 9]], [], [[20, 20]]], None, "a list of levels has shapes"),
        ([[[9, 9]], [20, 20], [[20, 20]]], None, "a list of levels has shapes"),
        ([[[9, 9]], [[20]], [[20, 20]]], None, "every shape is"),
        ([[[9, 9]], [[20, 20]], [[20, 20]]], 9, "9, but the list has 3 shapes"),
    ],
)
def test_shapes_that_do_not_fit_the_levels(init: Any, num: int | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        YOLOv3(2, AnchorOptions(init, num), width=0.1)


@pytest.mark.parametrize(("kind", "named"), [(YOLOv2, "yolov2-voc or yolov2-coco"), (YOLOv3, "yolov3-coco")])
def test_weights_ask_for_the_named_sets_that_fit(kind: type[YOLO], named: str) -> None:
    with pytest.raises(UserError, match=f"weights: its anchors .* of its .cfg there, or {named}, or a list in pixels"):
        kind(2, AnchorOptions("kmeans"), width=0.1, weights="yolo.weights")


def test_the_levels_of_a_named_set() -> None:
    assert YOLOv3(2, AnchorOptions("yolov3-coco"), width=0.1).shapes.num_per_level == [3, 3, 3]
    with pytest.warns(UserWarning, match="YOLOv2 has one level, which takes the shapes of all 3"):
        YOLOv2(2, AnchorOptions("yolov3-coco"), width=0.1)


def test_torchvisions_detectors_take_a_list_of_their_levels() -> None:
    levels = [[[8.0 * 2**level, 8.0 * 2**level]] * 9 for level in range(5)]
    shapes = RetinaNet(2, AnchorOptions(levels), backbone="small").shapes
    assert shapes.num_per_level == [9] * 5 and torch.equal(shapes.wh.round()[::9, 0], 2 ** torch.arange(3.0, 8))
    with pytest.raises(UserError, match=r"\[5, 13, 9, 9, 9\] shapes on the levels.* but RetinaNet has"):
        RetinaNet(2, AnchorOptions([levels[0][:5], levels[0][:4] + levels[1], *levels[2:]]), backbone="small")
