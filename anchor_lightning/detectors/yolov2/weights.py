"""darknet's `.weights` files: a header and the float32 numbers of one convolution after another, little-endian.

A convolution with batch norm is stored as shift, scale, running mean, running variance, kernel; one without as bias,
kernel. The C code adds 1e-6 to the root of the variance, this project and OpenCV below the root.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from anchor_lightning.detectors.yolov2.darknet import ConvBlock, DarkNet19
from anchor_lightning.detectors.yolov2.head import NUM_BOX_CHANNELS
from anchor_lightning.detectors.yolov2.yolov2 import YOLOv2

FLOAT_BYTES: Final = 4
WRITTEN_VERSION: Final = (0, 2, 0)
IMAGENET_CLASSES: Final = 1000
NEWEST_MAJOR: Final = 9
"""Versions so far are 0.1 and 0.2; first bytes that say more than this are not those of a weights file."""
LFS_POINTER: Final = b"version https://git-lfs"


def read_weights(path: Path | str, network: YOLOv2) -> int:
    """Fills a network, in place, with a whole YOLOv2 (`yolov2-voc.weights`, `yolov2.weights`).

    Args:
        path: The file.
        network: Of the file's width, number of shapes and classes. Where it has a batch norm without shift, that norm
            undoes itself in evaluation, so that the outputs are the file's.

    Returns:
        The images that the file says its network has seen in training.

    Raises:
        ValueError: The file is missing, is no weights file, or is of another size than the network; names both sizes.
    """
    head = network.head
    last = nn.Conv2d(network.neck.out_channels, head.num_anchors * (NUM_BOX_CHANNELS + head.num_classes), 1)
    layers = [*_backbone_layers(network.backbone), *_neck_layers(network)]
    values, seen = _read_file(Path(path))
    before = sum(_num_floats(layer) for layer in layers)
    expected = before + _num_floats(last)
    if len(values) != expected:
        raise ValueError(
            f"{path}: {_size(len(values))} of numbers, but a YOLOv2 with {head.num_anchors} shapes and "
            f"{head.num_classes} classes has {_size(expected)}"
            f"{_other_classes(len(values) - before, last.in_channels, head.num_anchors)}."
        )
    for layer in layers:
        values = _fill(layer, values)
    _fill(last, values)
    head.load_plain(last)
    return seen


def read_backbone(path: Path | str, backbone: DarkNet19) -> int:
    """Fills a backbone, in place, with DarkNet-19 as trained for classification.

    Args:
        path: The convolutions below the classifier (`darknet19_448.conv.23`), or these and the classifier of ImageNet's
            1,000 classes (`darknet19.weights`, `darknet19_448.weights`), which is left out.
        backbone: Of the file's width.

    Returns:
        The images that the file says its network has seen in training.

    Raises:
        ValueError: As `read_weights`.
    """
    layers = list(_backbone_layers(backbone))
    values, seen = _read_file(Path(path))
    expected = sum(_num_floats(layer) for layer in layers)
    classifier = IMAGENET_CLASSES * (backbone.coarse_channels + 1)
    if len(values) not in (expected, expected + classifier):
        raise ValueError(
            f"{path}: {_size(len(values))} of numbers, but the 18 convolutions of DarkNet-19 have {_size(expected)}, "
            f"with ImageNet's classifier {_size(expected + classifier)}. model.backbone_weights takes "
            "darknet19_448.conv.23 or darknet19.weights; a whole YOLOv2 goes to model.weights."
        )
    for layer in layers:
        values = _fill(layer, values)
    return seen


def write_weights(path: Path | str, network: YOLOv2, images_seen: int) -> None:
    """Writes a network as darknet 0.2 weights; the file appears whole or not at all.

    Args:
        path: Of the file.
        network: With its head folded (`YOLOv2.fold`).
        images_seen: Training images so far; the C code continues its warm-up and schedule from it.

    Raises:
        ValueError: The head still has its batch norm without shift, or a number is not finite.
    """
    if network.head.norm is not None:
        raise ValueError(
            "The head still has its batch norm without shift, which darknet cannot hold; call fold() first"
        )
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(struct.pack("<iiiq", *WRITTEN_VERSION, images_seen))
        for layer in [*_backbone_layers(network.backbone), *_neck_layers(network), network.head.all]:
            for tensor in _tensors(layer):
                if not tensor.isfinite().all():
                    raise ValueError(f"{path}: not written, the network has weights that are not finite")
                file.write(tensor.detach().cpu().numpy().astype("<f4").tobytes())
    part.replace(path)


def _backbone_layers(backbone: DarkNet19) -> Iterator[nn.Module]:
    return (module for module in backbone.modules() if isinstance(module, ConvBlock))


def _neck_layers(network: YOLOv2) -> list[nn.Module]:
    """In the order of the published configuration."""
    neck = network.neck
    return [*neck.coarse, neck.passthrough, neck.join]


def _tensors(layer: nn.Module) -> list[Tensor]:
    """What a file holds of a convolution, in its order."""
    if isinstance(layer, nn.Conv2d):
        assert layer.bias is not None
        return [layer.bias, layer.weight]
    assert isinstance(layer, ConvBlock)
    convolution, norm = layer[0], layer[1]
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    return [norm.bias, norm.weight, norm.running_mean, norm.running_var, convolution.weight]


def _num_floats(layer: nn.Module) -> int:
    return sum(tensor.numel() for tensor in _tensors(layer))


@torch.no_grad()
def _fill(layer: nn.Module, values: np.ndarray) -> np.ndarray:
    """Fills a convolution from the first of the values and returns the others."""
    for tensor in _tensors(layer):
        tensor.copy_(torch.from_numpy(values[: tensor.numel()].reshape(tensor.shape)))
        values = values[tensor.numel() :]
    return values


def _read_file(path: Path) -> tuple[np.ndarray, int]:
    """The numbers behind the header, and the images seen.

    The C code's rule: from version 0.2 on the images are counted in 64 bits, before in 32.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}). Give the path of a darknet weights file."
        ) from None
    if content.startswith(LFS_POINTER):
        raise ValueError(
            f"{path}: a Git LFS pointer of {len(content)} bytes, not the weights; fetch it with git lfs pull."
        )
    if content[:256].lstrip().startswith(b"<"):
        raise ValueError(f"{path}: a web page or XML, not weights; the download has failed. Fetch the file again.")
    if len(content) < 16:
        raise ValueError(f"{path}: {len(content)} bytes, less than the 16 of a weights file's header.")
    major, minor, _ = struct.unpack_from("<iii", content)
    if not (0 <= major <= NEWEST_MAJOR and 0 <= minor <= NEWEST_MAJOR):
        raise ValueError(f"{path}: no darknet weights file, its header says version {major}.{minor}.")
    wide = major * 10 + minor >= 2
    header = 20 if wide else 16
    if len(content) < header or (len(content) - header) % FLOAT_BYTES:
        raise ValueError(f"{path}: {len(content)} bytes, not a header of {header} and whole numbers of {FLOAT_BYTES}.")
    (seen,) = struct.unpack_from("<q" if wide else "<i", content, 12)
    values = np.frombuffer(content, dtype="<f4", offset=header).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: holds numbers that are not finite; the file is damaged. Fetch it again.")
    return values, int(seen)


def _size(num_floats: int) -> str:
    return f"{num_floats * FLOAT_BYTES:,} bytes"


def _other_classes(num_floats: int, in_channels: int, num_anchors: int) -> str:
    """What else the last convolution of a file may be, where its size fits one; else nothing."""
    channels, rest = divmod(num_floats, in_channels + 1)
    classes, odd = divmod(channels, num_anchors)
    if rest or odd or classes <= NUM_BOX_CHANNELS:
        return ""
    return f"; the file's size is that of {classes - NUM_BOX_CHANNELS} classes"
