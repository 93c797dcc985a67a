"""darknet's .weights and .cfg, and state dicts for a backbone of torchvision's."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from torchvision.models import resnet50

from anchor_lightning.detectors.backbones import DarkNet19
from tests.helpers.bad_input import ARGS, DETECTOR, RESNET, Command, CommandLine, cases, write

FIT = ("fit", *ARGS["synthetic"])
FILE: Final = Path("data/x.weights")
BACKBONE, WHOLE = f"{DETECTOR}.backbone_weights={FILE}", f"{DETECTOR}.weights={FILE}"
ANCHORS: Final = "--model.anchors.init=[[10,10],[20,20],[30,30],[40,40],[50,50]]"
COUNT: Final = sum(v.numel() for v in DarkNet19(0.1).state_dict().values() if v.is_floating_point())
GOOD: Final = struct.pack("<iiiq", 0, 2, 0, 7) + np.full(COUNT, 0.01, dtype="<f4").tobytes()
HEADER: Final = 20
"""Bytes."""


INVALID: dict[str, object] = {
    "empty": b"",
    "cut by one byte": GOOD[:-1],
    "one number too many": GOOD + bytes(4),
    "an HTML page": b"<!DOCTYPE html><html>404</html>",
    "-5 images seen": GOOD[:12] + struct.pack("<q", -5) + GOOD[HEADER:],
    "NaN among the numbers": GOOD[:-4] + struct.pack("<f", float("nan")),
    "every number negative": GOOD[:HEADER] + np.full(COUNT, -1, dtype="<f4").tobytes(),
}
SPECIAL: dict[str, object] = {
    "no file": lambda: None,
    "a folder": FILE.mkdir,
    "a named pipe": lambda: os.mkfifo(FILE),
}
REGION: Final = "[net]\n[region]\nanchors={}\n"
CFGS: dict[str, object] = {
    "empty": "",
    "random bytes": bytes(range(256)),
    "words as anchors": REGION.format("a, b"),
    "an odd count": REGION.format("1, 2, 3"),
    "infinity": REGION.format("1e999, 1"),
    "another num": REGION.format("1, 1\nnum=5"),
}


def nan_state() -> dict[str, torch.Tensor]:
    """ResNet-50's weights, one of them NaN."""
    weights = resnet50().state_dict()
    weights["conv1.weight"][0, 0, 0, 0] = float("nan")
    return dict(weights)


STATES: dict[str, object] = {
    "a list": lambda: [1],
    "an empty dict": dict,
    "another network's": lambda: {"fc": torch.zeros(3)},
    "text as weights": lambda: dict.fromkeys(resnet50().state_dict(), "x"),
    "an object that runs a command": Command,
    "a weight that is NaN": nan_state,
    "no torch file": lambda: b"<html>",
    "missing": lambda: None,
}


@cases("content", INVALID, ("cut by one byte",))
def test_invalid(command_line: CommandLine, content: bytes) -> None:
    write(FILE, content)
    command_line.fails("x.weights", *FIT, BACKBONE)


@pytest.mark.slow
def test_good_backbone_and_cfg(command_line: CommandLine) -> None:
    write(FILE, GOOD)
    write("data/x.cfg", REGION.format("1, 1, 2, 2"))
    command_line.succeeds("", *FIT, BACKBONE, "--model.anchors.init=data/x.cfg")
    command_line.fails("weights", *FIT, WHOLE, "--model.anchors.init=kmeans")
    command_line.fails("x.weights", *FIT, WHOLE, ANCHORS)


@cases("make", SPECIAL)
def test_no_plain_file(command_line: CommandLine, make: Callable[[], None]) -> None:
    command_line.copy("synthetic")
    make()
    command_line.fails("x.weights", *FIT, BACKBONE)


@cases("text", CFGS)
def test_invalid_cfg(command_line: CommandLine, text: str | bytes) -> None:
    write("data/x.cfg", text)
    command_line.fails("x.cfg", *FIT, "--model.anchors.init=data/x.cfg")


@cases("make", STATES)
def test_invalid_state_dict(command_line: CommandLine, make: Callable[[], Any]) -> None:
    command_line.copy("synthetic")
    stream, content = io.BytesIO(), make()
    torch.save(content, stream)
    if content is not None:
        write("data/x.pth", content if isinstance(content, bytes) else stream.getvalue())
    command_line.fails("x.pth", *FIT, *RESNET)
