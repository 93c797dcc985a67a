"""darknet's `.weights` files: a header and the float32 numbers of one convolution after another, little-endian.

A convolution with batch norm is shift, scale, running mean, running variance, kernel; one without is bias, kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anchor_lightning.detectors.backbones import Backbone, ConvBlock
from anchor_lightning.detectors.yolo.head import NUM_BOX_CHANNELS, RegionHead
from anchor_lightning.detectors.yolo.network import YOLONetwork
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats.files import read_plain_file


def read_weights(path: Path | str, network: YOLONetwork, kind: str = "YOLOv2") -> int:
    """Fills a network, in place, with a whole one of darknet, and returns the images that the file was trained on.

    Args:
        path: `yolov2-voc.weights` or `yolov3.weights`, say.
        network: A network with darknet's own backbone, of the file's width, number of shapes and classes, whose modules
            are in the file's order; its batch norm without shift, if any, is undone.
        kind: Name of the detector, for messages.

    Raises:
        UserError: The file is missing, is no weights file, or is of another size than the network; names both sizes.
    """
    heads = network.heads
    plain = {head: nn.Conv2d(head.in_channels, head.num_channels, 1) for head in heads}
    layers = [plain[layer] if isinstance(layer, RegionHead) else layer for layer in _layers(network)]
    before = _num_floats([layer for layer in layers if isinstance(layer, ConvBlock)])
    num_shapes = sum(head.num_anchors for head in heads)
    what = f"a {kind} with {num_shapes} shapes and {heads[0].num_classes} classes"

    def other_classes(num_floats: int) -> str:
        """What else the last convolutions of the file may be, where the size fits some."""
        of_channel = sum(head.num_anchors * (head.in_channels + 1) for head in heads)
        classes, rest = divmod(num_floats - before, of_channel)
        fits = not rest and classes > NUM_BOX_CHANNELS
        return f"; the file's size is that of {classes - NUM_BOX_CHANNELS} classes" if fits else ""

    values, seen = _read_file(Path(path), {_num_floats(layers): what}, other_classes)
    _fill(layers, values, path)
    for head in heads:
        head.load_plain(plain[head])
    return seen


def read_backbone(path: Path | str, backbone: Backbone) -> int:
    """Fills a DarkNet-19 or -53, in place, as trained for classification; returns the images it was trained on.

    Args:
        path: The convolutions (`darknet19_448.conv.23`, `darknet53.conv.74`), or these with ImageNet's classifier.
        backbone: Of the file's width.

    Raises:
        UserError: As `read_weights`.
    """
    layers = _layers(backbone)
    floats = _num_floats(layers)
    classifier = 1000 * (backbone.channels[-1] + 1)
    values, seen = _read_file(
        Path(path),
        {
            floats: f"the {len(layers)} convolutions of {type(backbone).__name__}",
            floats + classifier: "these with ImageNet's classifier",
        },
        lambda _: "; a whole detector goes to weights",
    )
    _fill(layers, values[:floats], path)
    return seen


def write_weights(path: Path | str, network: YOLONetwork, images_seen: int) -> None:
    """Writes a network as darknet 0.2 weights.

    Args:
        path: Of the file.
        network: With its heads folded (`YOLONetwork.fold`), and its modules in the order of the file.
        images_seen: Training images so far, 0 or more; from it the C code tells whether its own warm-up is over.

    Raises:
        UserError: A number is not finite, or `images_seen` negative.
    """
    layers = _layers(network)
    if any(isinstance(layer, RegionHead) and layer.norm is not None for layer in layers):
        raise ValueError("The head still has its batch norm without shift, which darknet cannot hold; call fold()")
    tensors = _tensors([layer.all if isinstance(layer, RegionHead) else layer for layer in layers])
    if images_seen < 0 or not all(tensor.isfinite().all() for tensor in tensors):
        raise UserError(
            f"{path}: not written, the network has weights that are not finite, or has seen {images_seen} images"
        )
    with Path(path).open("wb") as file:
        file.write(struct.pack("<iiiq", 0, 2, 0, images_seen))
        for tensor in tensors:
            file.write(tensor.detach().cpu().numpy().astype("<f4").tobytes())


def _layers(network: nn.Module) -> list[ConvBlock | RegionHead]:
    """The convolutions with batch norm and the heads, which the modules hold in the published configuration's order."""
    return [module for module in network.modules() if isinstance(module, ConvBlock | RegionHead)]


def _tensors(layers: Iterable[nn.Module]) -> list[Tensor]:
    """What a file holds of convolutions, in its order."""
    tensors: list[Any] = []
    for layer in layers:
        if isinstance(layer, ConvBlock):
            norm: Any = layer[1]
            tensors += [norm.bias, norm.weight, norm.running_mean, norm.running_var, layer[0].weight]
        else:
            tensors += [layer.bias, layer.weight]
    return tensors


def _num_floats(layers: Iterable[nn.Module]) -> int:
    return sum(tensor.numel() for tensor in _tensors(layers))


@torch.no_grad()
def _fill(layers: Sequence[nn.Module], values: np.ndarray, path: Path | str) -> None:
    """Fills convolutions from exactly as many values, or none of them if a value is invalid."""
    tensors = _tensors(layers)
    pairs = list(zip(tensors, np.split(values, np.cumsum([t.numel() for t in tensors])[:-1]), strict=True))
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
    """The numbers behind the header, and the images seen; `expected` names the counts of numbers that there may be."""
    start = read_plain_file(path, "darknet weights file", 20)
    size = path.stat().st_size
    wanted = " or ".join(
        f"{16 + 4 * floats:,} or, from version 0.2 on, {20 + 4 * floats:,} bytes ({what})"
        for floats, what in expected.items()
    )
    found = f"found {size:,} bytes, expected {wanted}"
    if size < 16:
        raise UserError(f"{path}: shorter than the 16 bytes of a header ({found}).")
    major, minor, _ = struct.unpack_from("<iii", start)
    if not (0 <= major <= 9 and 0 <= minor <= 9):  # so far there are 0.1 and 0.2
        raise UserError(
            f"{path}: no darknet weights file, its header says version {major}.{minor} ({found}). It may be a web page "
            "of a failed download, or a Git LFS pointer (git lfs pull)."
        )
    wide = major * 10 + minor >= 2
    header = 20 if wide else 16
    floats, rest = divmod(size - header, 4)
    if rest or floats not in expected:
        raise UserError(f"{path}: of another size than its network: {found}{'' if rest else hint(floats)}.")
    (seen,) = struct.unpack_from("<q" if wide else "<i", start, 12)
    if seen < 0:
        raise UserError(f"{path}: its header says {seen} images seen; the file is damaged. Fetch it again.")
    return np.fromfile(path, dtype="<f4", offset=header).astype(np.float32), int(seen)
