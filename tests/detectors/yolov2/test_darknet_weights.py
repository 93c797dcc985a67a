"""darknet files against OpenCV's importer, which nobody here wrote, and against bytes laid out by hand."""

from __future__ import annotations

import copy
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from anchor_lightning.anchors import initial_shapes
from anchor_lightning.detectors.backbones import DarkNet19
from anchor_lightning.detectors.yolo.darknet_weights import read_backbone, read_weights, write_weights
from anchor_lightning.detectors.yolo.head import RegionHead
from anchor_lightning.detectors.yolov2.darknet_cfg import cfg_text
from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from tests.helpers.opencv_reference import cv2, needs_importer, same_boxes_in_opencv

Network = TypeVar("Network", bound=nn.Module)


def randomised(model: Network) -> Network:
    """Every number random, batch norms included, with activations that stay of order 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.data.uniform_(-1, 1)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.7, 1.3)
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.7, 1.3)  # type: ignore[union-attr]
            if module.bias is not None:
                module.bias.data.uniform_(-0.2, 0.2)
    for module in model.modules():
        if isinstance(module, RegionHead) and module.norm is None:
            module.all.weight.data.mul_(0.25)
    return model.eval()


@needs_importer
@pytest.mark.parametrize(("width", "num_classes", "bn_without_shift"), [(1.0, 20, False), (0.25, 4, True)])
def test_opencv_computes_the_same(tmp_path: Path, width: float, num_classes: int, bn_without_shift: bool) -> None:
    """Of yolov2-voc at its full width, and of a head whose norm is folded in the file alone."""
    model = randomised(YOLOv2Network(5, num_classes, width, bn_without_shift))
    plain = copy.deepcopy(model)
    plain.fold()
    wh = initial_shapes("yolov2-voc")
    assert wh is not None
    (tmp_path / "net.cfg").write_text(cfg_text(wh, num_classes, (96, 160), width))
    write_weights(tmp_path / "net.weights", plain, 0)
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "net.cfg"), str(tmp_path / "net.weights"))
    image = torch.rand(1, 3, 96, 160)
    net.setInput(image.numpy())
    theirs = torch.from_numpy(net.forward("conv_30"))
    assert 0.5 < theirs.std() < 2
    with torch.no_grad():
        torch.testing.assert_close(model(image).raw.flatten(1, 2), theirs, atol=2e-5, rtol=0)
    assert same_boxes_in_opencv(net, model, image, wh) > 50


@pytest.mark.parametrize("bn_without_shift", [False, True])
def test_written_and_read_again_is_the_same(tmp_path: Path, bn_without_shift: bool) -> None:
    """Also in a network with batch norm without shift: in evaluation, and folded again."""
    plain = randomised(YOLOv2Network(3, 4, width=0.1, bn_without_shift=False))
    write_weights(tmp_path / "w", plain, 5_000_000_000)
    model = YOLOv2Network(3, 4, width=0.1, bn_without_shift=bn_without_shift, bn_scale_init=0.3).eval()
    assert read_weights(tmp_path / "w", model) == 5_000_000_000
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = plain(image).raw
        torch.testing.assert_close(model(image).raw, expected, atol=1e-5, rtol=1e-5)
        model.fold()
        torch.testing.assert_close(model(image).raw, expected, atol=1e-5, rtol=1e-5)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(("bn_without_shift", "message"), [(False, "not finite"), (True, "fold")])
def test_what_darknet_cannot_hold_is_not_written(tmp_path: Path, bn_without_shift: bool, message: str) -> None:
    model = YOLOv2Network(3, 4, width=0.1, bn_without_shift=bn_without_shift)
    next(model.parameters()).data[0] = float("inf")
    with pytest.raises(ValueError, match=message):
        write_weights(tmp_path / "w", model, 0)
    assert not list(tmp_path.iterdir())


# Headers and sizes, on bytes laid out by hand


@pytest.mark.parametrize(
    ("header", "seen", "classifier"),
    [(struct.pack("<iiii", 0, 1, 0, 123456), 123456, 0), (struct.pack("<iiiq", 0, 2, 0, 2**33 + 1), 2**33 + 1, 1000)],
)
def test_both_headers_and_both_backbone_files(tmp_path: Path, header: bytes, seen: int, classifier: int) -> None:
    """The first convolution's shift, scale, mean, variance, kernel stand at the front in this order."""
    backbone = DarkNet19(width=0.1)
    count = sum(value.numel() for value in backbone.state_dict().values() if value.is_floating_point())
    numbers = np.arange(1, count + 1 + classifier * (backbone.channels[-1] + 1), dtype="<f4")
    (tmp_path / "b").write_bytes(header + numbers.tobytes())
    assert read_backbone(tmp_path / "b", backbone) == seen
    convolution, norm, _ = backbone.to_stride_16[0][0]  # 8 filters of 3 x 3 x 3
    parts = [norm.bias, norm.weight, norm.running_mean, norm.running_var, convolution.weight.flatten()]
    assert torch.cat(parts).tolist() == list(range(1, 1 + 4 * 8 + 8 * 27))
    assert backbone.to_stride_32[-1][0].weight.flatten()[-1] == count


@pytest.mark.parametrize(
    ("change", "num_classes", "message"),
    [
        (lambda content: content[:-4], 4, r"found [\d,]+ bytes, expected [\d,]+ or, .*3 shapes and 4"),
        (lambda content: content[:-2], 4, "of another size than its network: found"),
        (lambda content: content, 7, "size is that of 7 classes"),
        (lambda content: content[:7], 4, "shorter than the 16 bytes of a header .found 7 bytes"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\noid", 4, "found 46 bytes.*web page.*Git LFS"),
        (lambda content: content[:20] + struct.pack("<f", float("nan")) + content[24:], 4, "1th block .* not finite"),
        # shift, scale, mean, variance of eight filters: the fourth block
        (lambda content: content[:116] + struct.pack("<f", -1) + content[120:], 4, "4th block .* negative variance"),
        (lambda content: content[:12] + struct.pack("<q", -5) + content[20:], 4, "-5 images seen"),
    ],
)
def test_broken_files_raise(tmp_path: Path, change: Callable[[bytes], bytes], num_classes: int, message: str) -> None:
    path = tmp_path / "w"
    write_weights(path, YOLOv2Network(3, num_classes, width=0.1, bn_without_shift=False), 0)
    path.write_bytes(change(path.read_bytes()))
    network = YOLOv2Network(3, 4, width=0.1)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        read_weights(path, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()), "left alone"


def test_what_is_no_backbone(tmp_path: Path) -> None:
    write_weights(tmp_path / "whole", YOLOv2Network(3, 4, width=0.1, bn_without_shift=False), 0)
    os.mkfifo(tmp_path / "pipe")
    for name, message in {"whole": "goes to weights", "pipe": "no plain file", "nowhere": "cannot be read"}.items():
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            read_backbone(tmp_path / name, DarkNet19(width=0.1))
