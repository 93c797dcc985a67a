"""darknet's .weights and .cfg, and torch state dicts of a backbone."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anchor_lightning.detectors.backbones import DarkNet19
from anchor_lightning.detectors.torchvision.models import resnet_50
from anchor_lightning.detectors.yolov2.darknet_weights import _backbone_layers, _num_floats
from benchmarks.robustness.checkpoints import Evil, no_evil
from benchmarks.robustness.harness import Case
from benchmarks.robustness.made import write

HEADER = struct.pack("<iiiq", 0, 2, 0, 7)
BACKBONE, WHOLE = "--model.backbone_weights=data/x.weights", "--model.weights=data/x.weights"
ANCHORS = "--model.anchors.init=[[10,10],[20,20],[30,30],[40,40],[50,50]]"
STOCK = (
    *("--model.detector=retinanet_r50_fpn", "--model.width=1.0", "--model.prior_images=12800"),
    *("--model.bn_scale_init=1.0", "--model.anchors.init=model", "--soft_assignment.steps=0", "--clustering.steps=0"),
)


def num_floats() -> int:
    """Numbers of a DarkNet-19 at the width of the cases."""
    return sum(_num_floats(layer) for layer in _backbone_layers(DarkNet19(0.1)))


def whole() -> bytes:
    """A good file of the backbone."""
    numbers = np.full(num_floats(), 0.01, dtype="<f4")
    return HEADER + numbers.tobytes()


def given(data: Path, content: bytes, *more: str) -> Sequence[str]:
    """A file of weights, named by the option of the backbone or of the whole network."""
    write(data / "x.weights", content)
    return more


def made(make: Callable[[bytes], bytes], *more: str) -> Callable[[Path], Sequence[str]]:
    """A file made from the good one when the case runs."""
    return lambda data: given(data, make(whole()), *more)


def with_number(content: bytes, value: float) -> bytes:
    """One of the numbers as another one; in the first block but one."""
    place = len(HEADER) + 4 * 5
    return content[:place] + struct.pack("<f", value) + content[place + 4 :]


def cfg(data: Path, text: str | bytes) -> Sequence[str]:
    """Anchors from a darknet configuration."""
    write(data / "x.cfg", text)
    return ("--model.anchors.init=data/x.cfg",)


def state(data: Path, content: Callable[[], Any]) -> Sequence[str]:
    """A torch file for the backbone of a torchvision detector."""
    torch.save(content(), data / "x.pth")
    return ("--model.weights_backbone=data/x.pth", *STOCK)


def cases() -> list[Case]:
    """The three kinds."""
    group, says = "Weights files", r"data/x\.weights"
    makers: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda w: b"",
        "15 bytes": lambda w: w[:15],
        "the header alone": lambda w: w[:20],
        "cut to 50 %": lambda w: w[: len(w) // 2],
        "cut by one number": lambda w: w[:-4],
        "cut by one byte": lambda w: w[:-1],
        "one number too many": lambda w: w + bytes(4),
        "an HTML page": lambda w: b"<!DOCTYPE html><html>404</html>",
        "a Git LFS pointer": lambda w: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "text": lambda w: b"hello, these are no weights at all\n",
        "a ZIP archive": lambda w: b"PK\x03\x04" + bytes(1000),
        "zeros of the right size": lambda w: bytes(len(w)),
        "version 99.0": lambda w: struct.pack("<iii", 99, 0, 0) + w[12:],
        "version -1": lambda w: struct.pack("<iii", -1, -1, 0) + w[12:],
        "-5 images seen": lambda w: w[:12] + struct.pack("<q", -5) + w[20:],
        "NaN among the numbers": lambda w: with_number(w, float("nan")),
        "infinity among the numbers": lambda w: with_number(w, float("inf")),
        "every number negative": lambda w: w[:20] + np.full(num_floats(), -1, dtype="<f4").tobytes(),
        "byte order reversed": lambda w: (
            w[:20] + np.frombuffer(w[20:], "<f4").astype(">f4").tobytes()[:-4] + b"\xff" * 4
        ),
        "a torch file": lambda w: b"PK\x03\x04torch" + bytes(500),
    }
    result = [
        Case(group, f"backbone: {what}", "synthetic", made(make, BACKBONE), says=says)
        for what, make in makers.items()
        if what != "zeros of the right size"
    ]
    result += [
        Case(group, f"whole network: {what}", "synthetic", made(makers[what], WHOLE, ANCHORS), says=says)
        for what in ("empty", "cut to 50 %", "an HTML page", "text", "zeros of the right size")
    ]
    result += [
        Case(group, "backbone: a good file", "synthetic", made(lambda w: w, BACKBONE), "goes on"),
        Case(group, "backbone: a file that is missing", "synthetic", lambda d: [BACKBONE], says=says),
        Case(group, "backbone: a folder", "synthetic", _folder, says=says),
        Case(group, "backbone: a named pipe", "synthetic", _pipe, says=says),
        Case(group, "whole network: a backbone's file", "synthetic", made(lambda w: w, WHOLE, ANCHORS), says=says),
        Case(
            group,
            "whole network: k-means shapes with it",
            "synthetic",
            made(lambda w: w, WHOLE, "--model.anchors.init=kmeans"),
            says="model.weights",
        ),
    ]
    region = "[net]\n[region]\nanchors={}\n"
    texts: dict[str, str | bytes] = {
        "empty": "",
        "an HTML page": "<html></html>",
        "random bytes": bytes(range(256)),
        "no anchors": "[region]\nnum=5\n",
        "words as anchors": region.format("a, b"),
        "an odd count": region.format("1, 2, 3"),
        "NaN": region.format("nan, 1"),
        "infinity": region.format("1e999, 1"),
        "a negative side": region.format("-1, 1"),
        "zero": region.format("0, 1"),
        "another num": region.format("1, 1\nnum=5"),
    }
    result += [
        Case(group, f".cfg: {what}", "synthetic", partial(cfg, text=text), says=r"data/x\.cfg")
        for what, text in texts.items()
    ]
    result.append(
        Case(group, ".cfg: a good one", "synthetic", partial(cfg, text=region.format("1, 1, 2, 2")), "goes on")
    )
    states: dict[str, Callable[[], Any]] = {
        "a list": lambda: [1],
        "a tensor": lambda: torch.zeros(1),
        "an empty dict": dict,
        "another network's": lambda: {"fc": torch.zeros(3)},
        "text as weights": lambda: dict.fromkeys(resnet_50(True).state_dict(), "x"),
        "an object that runs a command": Evil,
        "a weight that is NaN": _nan_state,
    }
    result += [
        Case(
            group,
            f"state dict: {what}",
            "synthetic",
            partial(state, content=content),
            says=r"data/x\.pth",
            after=no_evil,
        )
        for what, content in states.items()
    ]
    others = {"missing": None, "text": b"hello", "empty": b"", "an HTML page": b"<html>"}
    result += [
        Case(group, f"state dict: {what}", "synthetic", partial(_raw_state, content=content), says=r"data/x\.pth")
        for what, content in others.items()
    ]
    return result


def _raw_state(data: Path, content: bytes | None) -> Sequence[str]:
    if content is not None:
        write(data / "x.pth", content)
    return ("--model.weights_backbone=data/x.pth", *STOCK)


def _nan_state() -> dict[str, torch.Tensor]:
    weights = resnet_50(True).state_dict()
    weights["conv1.weight"][0, 0, 0, 0] = float("nan")
    return dict(weights)


def _folder(data: Path) -> Sequence[str]:
    (data / "x.weights").mkdir()
    return (BACKBONE,)


def _pipe(data: Path) -> Sequence[str]:
    import os

    os.mkfifo(data / "x.weights")
    return (BACKBONE,)
