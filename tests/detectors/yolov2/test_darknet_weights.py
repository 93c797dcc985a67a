"""darknet files against OpenCV's importer, which nobody here wrote, and against bytes laid out by hand."""

from __future__ import annotations

import copy
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anchor_lightning.anchors import initial_shapes
from anchor_lightning.detectors.backbones import DarkNet19
from anchor_lightning.detectors.yolov2.darknet_cfg import cfg_text, read_anchors
from anchor_lightning.detectors.yolov2.darknet_weights import read_backbone, read_weights, write_weights
from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from tests.helpers.opencv_reference import cv2, needs_importer, same_boxes_in_opencv

VOC_WH = initial_shapes("yolov2-voc")
assert VOC_WH is not None


def randomised(model: YOLOv2Network, seed: int = 0) -> YOLOv2Network:
    """Every number random, batch norms included, with activations that stay of order 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(-1, 1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.7, 1.3, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.7, 1.3, generator=generator)  # type: ignore[union-attr]
            if module.bias is not None:
                module.bias.data.uniform_(-0.2, 0.2, generator=generator)
    if model.head.norm is None:
        model.head.all.weight.data.mul_(0.25)
    return model.eval()


def opencv_net(folder: Path, model: YOLOv2Network, wh: Tensor, size: tuple[int, int], width: float) -> cv2.dnn.Net:
    (folder / "net.cfg").write_text(cfg_text(wh, model.head.num_classes, size, width))
    if not (folder / "net.weights").exists():
        write_weights(folder / "net.weights", model, 0)
    return cv2.dnn.readNetFromDarknet(str(folder / "net.cfg"), str(folder / "net.weights"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, YOLOv2Network]:
    """A folder, and yolov2-voc's architecture at its full width, with random numbers."""
    return tmp_path_factory.mktemp("published"), randomised(YOLOv2Network(5, 20, bn_without_shift=False))


@needs_importer
@pytest.mark.parametrize("size", [(416, 416), (544, 544), (320, 480)])
def test_the_raw_head_is_opencvs(published: tuple[Path, YOLOv2Network], size: tuple[int, int]) -> None:
    folder, model = published
    net = opencv_net(folder, model, VOC_WH, size, 1.0)
    image = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    net.setInput(image)
    theirs = net.forward("conv_30")
    with torch.no_grad():
        ours = model(torch.from_numpy(image)).raw.flatten(1, 2).numpy()
    assert theirs.shape == ours.shape == (1, 125, size[0] // 32, size[1] // 32)
    assert 0.5 < theirs.std() < 2
    np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=0)


@needs_importer
@pytest.mark.parametrize("bn_without_shift", [False, True])
def test_opencv_decodes_the_same_boxes(tmp_path: Path, bn_without_shift: bool) -> None:
    model = randomised(YOLOv2Network(3, 4, width=0.25, bn_without_shift=bn_without_shift))
    wh = torch.tensor([[21.7, 35.2], [64.1, 48.9], [100.3, 90.6]])
    image = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    plain = copy.deepcopy(model)
    plain.fold()
    net = opencv_net(tmp_path, plain, wh, (96, 160), 0.25)
    assert same_boxes_in_opencv(net, model, image, wh) > 50


def test_written_and_read_again_is_the_same(tmp_path: Path) -> None:
    model = randomised(YOLOv2Network(3, 4, width=0.1, bn_without_shift=False))
    write_weights(tmp_path / "w", model, 5_000_000_000)
    other = YOLOv2Network(3, 4, width=0.1, bn_without_shift=False)
    assert read_weights(tmp_path / "w", other) == 5_000_000_000
    state = other.state_dict()
    for name, value in model.state_dict().items():
        assert "num_batches" in name or torch.equal(state[name], value), name
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_plain_file_in_a_network_with_batch_norm_without_shift(tmp_path: Path, scale: float) -> None:
    """In evaluation it is the file's network; folded again it is the file."""
    plain = randomised(YOLOv2Network(3, 4, width=0.1, bn_without_shift=False))
    write_weights(tmp_path / "w", plain, 0)
    model = YOLOv2Network(3, 4, width=0.1, bn_without_shift=True, bn_scale_init=scale).eval()
    read_weights(tmp_path / "w", model)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = plain(image).raw
        torch.testing.assert_close(model(image).raw, expected, atol=1e-5, rtol=1e-5)
        model.fold()
        torch.testing.assert_close(model(image).raw, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("bn_without_shift", "message"), [(False, "not finite"), (True, "fold")])
def test_what_darknet_cannot_hold_is_not_written(tmp_path: Path, bn_without_shift: bool, message: str) -> None:
    model = YOLOv2Network(3, 4, width=0.1, bn_without_shift=bn_without_shift)
    next(model.parameters()).data[0] = float("inf")
    with pytest.raises(ValueError, match=message):
        write_weights(tmp_path / "w", model, 0)
    assert not list(tmp_path.iterdir())


# Headers and sizes, on bytes laid out by hand


def floats_of_backbone(backbone: DarkNet19) -> int:
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    kernels = sum(m.weight.numel() for m in backbone.modules() if isinstance(m, nn.Conv2d))
    return kernels + sum(4 * norm.num_features for norm in norms)


@pytest.mark.parametrize(
    ("header", "seen"),
    [(struct.pack("<iiii", 0, 1, 0, 123456), 123456), (struct.pack("<iiiq", 0, 2, 0, 2**33 + 1), 2**33 + 1)],
)
@pytest.mark.parametrize("classifier", [False, True])
def test_both_headers_and_both_backbone_files(tmp_path: Path, header: bytes, seen: int, classifier: bool) -> None:
    """The first convolution's shift, scale, mean, variance, kernel stand at the front in this order."""
    backbone = DarkNet19(width=0.1)
    count = floats_of_backbone(backbone)
    values = np.arange(1, count + 1, dtype="<f4")
    tail = np.zeros(1000 * (backbone.coarse_channels + 1), dtype="<f4") if classifier else values[:0]
    (tmp_path / "b").write_bytes(header + values.tobytes() + tail.tobytes())
    assert read_backbone(tmp_path / "b", backbone) == seen
    convolution, norm, _ = backbone.to_stride_16[0][0]  # 8 filters of 3 x 3 x 3
    parts = [norm.bias, norm.weight, norm.running_mean, norm.running_var, convolution.weight.flatten()]
    assert torch.cat(parts).tolist() == list(range(1, 1 + 4 * 8 + 8 * 27))
    assert backbone.to_stride_32[-1][0].weight.flatten()[-1] == count


def test_the_published_backbones_size() -> None:
    """darknet19_448.conv.23 has 79,327,120 bytes."""
    with torch.device("meta"):
        assert 16 + 4 * floats_of_backbone(DarkNet19()) == 79_327_120


def written(tmp_path: Path, num_classes: int = 4) -> bytes:
    write_weights(tmp_path / "whole", YOLOv2Network(3, num_classes, width=0.1, bn_without_shift=False), 0)
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-4], r"found [\d,]+ bytes, expected [\d,]+ or, .* \(a YOLOv2 with 3 shapes and 4"),
        (lambda content: content + bytes(4), r"of another size than its network: found"),
        (lambda content: content[: len(content) // 2 // 4 * 4], "of another size than its network: found"),
        (lambda content: content[:-2], "of another size than its network: found"),
        (lambda content: content[:18], "found 18 bytes, expected"),
        (lambda content: content[:7], "shorter than the 16 bytes of a header .found 7 bytes"),
        (lambda content: b"", "found 0 bytes, expected"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "found 56 bytes.*Git LFS"),
        (lambda content: b"\n<!DOCTYPE html><html>" + bytes(99), "found 121 bytes, expected.*web page"),
        (lambda content: b"PK\x03\x04" + content, "no darknet weights file, its header says version 67324752"),
        (lambda content: content[:20] + struct.pack("<f", float("nan")) + content[24:], "1th block .* not finite"),
        # shift, scale, mean, variance of eight filters: the fourth block
        (lambda content: content[:116] + struct.pack("<f", -1) + content[120:], "4th block .* negative variance"),
        (lambda content: content[:12] + struct.pack("<q", -5) + content[20:], "-5 images seen"),
    ],
)
def test_broken_files_raise(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "w").write_bytes(change(written(tmp_path)))
    network = YOLOv2Network(3, 4, width=0.1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(tmp_path / "w", network)
    assert str(tmp_path / "w") in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()), "left alone"


def test_another_class_count_is_named(tmp_path: Path) -> None:
    written(tmp_path, num_classes=7)
    with pytest.raises(ValueError, match="the file's size is that of 7 classes"):
        read_weights(tmp_path / "whole", YOLOv2Network(3, 4, width=0.1))


def test_a_whole_network_is_no_backbone_and_a_missing_file_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(ValueError, match="goes to weights"):
        read_backbone(tmp_path / "whole", DarkNet19(width=0.1))
    with pytest.raises(ValueError, match="nowhere"):
        read_backbone(tmp_path / "nowhere", DarkNet19(width=0.1))
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path, YOLOv2Network(3, 4, width=0.1))


@pytest.mark.parametrize("read", [read_anchors, lambda path: read_backbone(path, DarkNet19(0.02))])
def test_named_pipes_raise_at_once(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: cannot be read \(it is no plain file\)"):
        read(tmp_path / "pipe")


# Anchors of configurations


def test_grid_units_become_pixels_and_pixels_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.cfg"
    path.write_text("[net]\nwidth=416\n[region]\n# a comment\nanchors =  1.3221, 1.73145,  3, 4\nnum=2\n")
    torch.testing.assert_close(read_anchors(path), torch.tensor([[42.3072, 55.4064], [96, 128]]))
    path.write_text("[yolo]\nmask=0\nanchors = 10,13, 16,30\n[yolo]\nmask=1\nanchors = 10,13, 16,30\n")
    assert read_anchors(path).tolist() == [[10, 13], [16, 30]]


def test_anchors_come_back_to_the_bit(tmp_path: Path) -> None:
    wh = torch.rand(9, 2, generator=torch.Generator().manual_seed(0)) * 400 + 1
    (tmp_path / "a.cfg").write_text(cfg_text(wh, 20, (416, 416)))
    assert torch.equal(read_anchors(tmp_path / "a.cfg"), wh)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[net]\nwidth=416\n", "no .region. or .yolo. layer"),
        ("[region]\nanchors=1,2,3\n", "3 numbers"),
        ("[region]\nanchors=a,b\n", "no numbers"),
        ("[region]\nanchors=1,2,3,4\nnum=1\n", "are 2 pairs, but num=1"),
        ("[region]\nanchors=\n", "0 numbers"),
        ("", "no .region."),
        *(
            (f"[net]\n[region]\nanchors={anchors}\n", r"anchors of \[region\] must be positive")
            for anchors in ("0, 1", "-1, 1", "nan, 1", "1e999, 1", "1, 1, inf, 2")
        ),
    ],
)
def test_invalid_configurations(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.cfg").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_anchors(tmp_path / "bad.cfg")
    assert "bad.cfg" in str(caught.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_anchors(tmp_path / "none.cfg")
