"""darknet's `.weights` files: a header and the float32 numbers of one convolution after another, little-endian.

A convolution with batch norm is stored as shift, scale, running mean, running variance, kernel; one without as bias,
kernel. The C code adds 1e-6 to the root of the variance, this project and OpenCV below the root.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from anchor_lightning.detectors.backbones import ConvBlock, DarkNet19
from anchor_lightning.detectors.yolov2.head import NUM_BOX_CHANNELS
from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from anchor_lightning.errors import UserError

FLOAT_BYTES: Final = 4
WRITTEN_VERSION: Final = (0, 2, 0)
IMAGENET_CLASSES: Final = 1000
NEWEST_MAJOR: Final = 9
"""Versions so far are 0.1 and 0.2; first bytes that say more than this are not those of a weights file."""
LFS_POINTER: Final = b"version https://git-lfs"


def read_weights(path: Path | str, network: YOLOv2Network) -> int:
    """Fills a network, in place, with a whole YOLOv2 (`yolov2-voc.weights`, `yolov2.weights`).

    Args:
        path: The file.
        network: Of the file's width, number of shapes and classes. Where it has a batch norm without shift, that norm
            undoes itself in evaluation, so that the outputs are the file's.

    Returns:
        The images that the file says its network has seen in training.

    Raises:
        UserError: The file is missing, is no weights file, or is of another size than the network; names both sizes.
    """
    head = network.head
    last = nn.Conv2d(network.neck.out_channels, head.num_anchors * (NUM_BOX_CHANNELS + head.num_classes), 1)
    layers = [*_backbone_layers(network.backbone), *_neck_layers(network)]
    before = sum(_num_floats(layer) for layer in layers)
    what = f"a YOLOv2 with {head.num_anchors} shapes and {head.num_classes} classes"
    values, seen = _read_file(
        Path(path),
        {before + _num_floats(last): what},
        lambda floats: _other_classes(floats - before, last.in_channels, head.num_anchors),
    )
    _fill([*layers, last], values, path)
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
        UserError: As `read_weights`.
    """
    layers = list(_backbone_layers(backbone))
    floats = sum(_num_floats(layer) for layer in layers)
    classifier = IMAGENET_CLASSES * (backbone.coarse_channels + 1)
    values, seen = _read_file(
        Path(path),
        {floats: "the 18 convolutions of DarkNet-19", floats + classifier: "these with ImageNet's classifier"},
        lambda _: "; a whole YOLOv2 goes to weights",
    )
    _fill(layers, values[:floats], path)
    return seen


def write_weights(path: Path | str, network: YOLOv2Network, images_seen: int) -> None:
    """Writes a network as darknet 0.2 weights.

    Args:
        path: Of the file.
        network: With its head folded (`YOLOv2Network.fold`).
        images_seen: Training images so far, 0 or more; from it the C code tells whether its own warm-up is over.

    Raises:
        UserError: The head still has its batch norm without shift, a number is not finite, or `images_seen` negative.
    """
    if network.head.norm is not None:
        raise ValueError(
            "The head still has its batch norm without shift, which darknet cannot hold; call fold() first"
        )
    tensors = [
        t
        for layer in [*_backbone_layers(network.backbone), *_neck_layers(network), network.head.all]
        for t in _tensors(layer)
    ]
    if images_seen < 0 or not all(tensor.isfinite().all() for tensor in tensors):
        raise UserError(
            f"{path}: not written, the network has weights that are not finite, or has seen {images_seen} images"
        )
    with Path(path).open("wb") as file:
        file.write(struct.pack("<iiiq", *WRITTEN_VERSION, images_seen))
        for tensor in tensors:
            file.write(tensor.detach().cpu().numpy().astype("<f4").tobytes())


def _backbone_layers(backbone: DarkNet19) -> Iterator[nn.Module]:
    return (module for module in backbone.modules() if isinstance(module, ConvBlock))


def _neck_layers(network: YOLOv2Network) -> list[nn.Module]:
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
def _fill(layers: Sequence[nn.Module], values: np.ndarray, path: Path | str) -> None:
    """Fills convolutions from values in the file's order, which are exactly theirs.

    Raises:
        UserError: A number is not finite, or a running variance negative; nothing is filled then.
    """
    parts = np.split(values, np.cumsum([tensor.numel() for layer in layers for tensor in _tensors(layer)])[:-1])
    pairs = list(zip((tensor for layer in layers for tensor in _tensors(layer)), parts, strict=True))
    variances = {id(m.running_var) for layer in layers for m in layer.modules() if isinstance(m, nn.BatchNorm2d)}
    for number, (tensor, part) in enumerate(pairs):
        if not np.isfinite(part).all() or (id(tensor) in variances and (part < 0).any()):
            raise UserError(
                f"{path}: its {number + 1}th block of numbers holds values that are not finite or a negative variance; "
                "the file is damaged, or of another network of the same size. Fetch it again."
            )
    for tensor, part in pairs:
        tensor.copy_(torch.from_numpy(part.reshape(tensor.shape)))


def _read_file(path: Path, expected: Mapping[int, str], hint: Callable[[int], str]) -> tuple[np.ndarray, int]:
    """The numbers behind the header, and the images seen; the size is checked before the numbers are read.

    The C code's rule: from version 0.2 on the images are counted in 64 bits, before in 32.

    Args:
        path: The file.
        expected: Numbers that it may hold, and of what.
        hint: What else to say of a file with so many numbers.
    """
    if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
        raise UserError(f"{path}: cannot be read (it is no plain file). Give the path of a darknet weights file.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(256)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). Give the path of a darknet weights file."
        ) from None
    wanted = " or ".join(f"{_bytes(floats)} ({what})" for floats, what in expected.items())
    found = f"found {size:,} bytes, expected {wanted}"
    if start.startswith(LFS_POINTER):
        raise UserError(f"{path}: a Git LFS pointer, not the weights ({found}); fetch them with git lfs pull.")
    if start.lstrip().startswith(b"<"):
        raise UserError(f"{path}: a web page or XML, not weights ({found}); the download has failed. Fetch it again.")
    if size < 16:
        raise UserError(f"{path}: shorter than the 16 bytes of a header ({found}).")
    major, minor, _ = struct.unpack_from("<iii", start)
    if not (0 <= major <= NEWEST_MAJOR and 0 <= minor <= NEWEST_MAJOR):
        raise UserError(f"{path}: no darknet weights file, its header says version {major}.{minor} ({found}).")
    wide = major * 10 + minor >= 2
    header = 20 if wide else 16
    floats, rest = divmod(size - header, FLOAT_BYTES)
    if rest or floats not in expected:
        raise UserError(f"{path}: of another size than its network: {found}{'' if rest else hint(floats)}.")
    (seen,) = struct.unpack_from("<q" if wide else "<i", start, 12)
    if seen < 0:
        raise UserError(f"{path}: its header says {seen} images seen; the file is damaged. Fetch it again.")
    return np.fromfile(path, dtype="<f4", offset=header).astype(np.float32), int(seen)


def _bytes(num_floats: int) -> str:
    """Of a whole file, with the shorter and the longer header."""
    return f"{16 + num_floats * FLOAT_BYTES:,} or, from version 0.2 on, {20 + num_floats * FLOAT_BYTES:,} bytes"


def _other_classes(num_floats: int, in_channels: int, num_anchors: int) -> str:
    """What else the last convolution of a file may be, where its size fits one; else nothing."""
    channels, rest = divmod(num_floats, in_channels + 1)
    classes, odd = divmod(channels, num_anchors)
    if rest or odd or classes <= NUM_BOX_CHANNELS:
        return ""
    return f"; the file's size is that of {classes - NUM_BOX_CHANNELS} classes"
