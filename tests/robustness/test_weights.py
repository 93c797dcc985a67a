"""darknet's .weights and .cfg, and state dicts for a backbone of torchvision's."""

from __future__ import annotations

import io
import math
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
from tests.helpers.bad_input import ARGS, DETECTOR, RESNET, Command, CommandLine, rows, write

FIT = ("fit", *ARGS["synthetic"])
FILE: Final = Path("data/x.weights")
BACKBONE, WHOLE = f"{DETECTOR}.backbone_weights={FILE}", f"{DETECTOR}.weights={FILE}"
ANCHORS: Final = "--model.anchors.init=[[10,10],[20,20],[30,30],[40,40],[50,50]]"
COUNT: Final = sum(v.numel() for v in DarkNet19(0.1).state_dict().values() if v.is_floating_point())
GOOD: Final = struct.pack("<iiiq", 0, 2, 0, 7) + np.full(COUNT, 0.01, dtype="<f4").tobytes()
REVERSED: Final = GOOD[:20] + np.full(COUNT - 1, 0.01, dtype=">f4").tobytes() + b"\xff" * 4
CFG: Final = "--model.anchors.init=data/x.cfg"
# What the tests of the readers do not have, and one of theirs for each kind of file: content, options.
INVALID: dict[str, object] = {
    "text": (b"hello, these are no weights at all\n", (BACKBONE,)),
    "cut by one byte": (GOOD[:-1], (BACKBONE,)),
    "version 99.0": (struct.pack("<iii", 99, 0, 0) + GOOD[12:], (BACKBONE,)),
    "infinity among the numbers": (GOOD[:40] + struct.pack("<f", math.inf) + GOOD[44:], (BACKBONE,)),
    "byte order reversed": (REVERSED, (BACKBONE,)),
    "a whole network of text": (b"hello, these are no weights at all\n", (WHOLE, ANCHORS)),
    "a whole network of zeros": (bytes(len(GOOD)), (WHOLE, ANCHORS)),
    "a backbone's file as whole network": (GOOD, (WHOLE, ANCHORS)),
    "a .cfg that is an HTML page": ("<html></html>", (CFG,)),
    "a .cfg of random bytes": (bytes(range(256)), (CFG,)),
    "a .cfg with NaN": ("[net]\n[region]\nanchors=nan, 1\n", (CFG,)),
}
SPECIAL: dict[str, object] = {
    "no file": lambda: None,
    "a folder": FILE.mkdir,
    "a named pipe": lambda: os.mkfifo(FILE),
}


def nan_state() -> dict[str, torch.Tensor]:
    """ResNet-50's weights, one of them NaN."""
    weights = resnet50().state_dict()
    weights["conv1.weight"][0, 0, 0, 0] = float("nan")
    return dict(weights)


STATES: dict[str, object] = {
    "a list": lambda: [1],
    "a tensor": lambda: torch.zeros(1),
    "an empty dict": dict,
    "another network's": lambda: {"fc": torch.zeros(3)},
    "text as weights": lambda: dict.fromkeys(resnet50().state_dict(), "x"),
    "an object that runs a command": Command,
    "a weight that is NaN": nan_state,
    "empty": lambda: b"",
    "an HTML page": lambda: b"<html>",
    "missing": lambda: None,
}


@pytest.mark.parametrize(("content", "options"), rows(INVALID, ("cut by one byte",)))
def test_invalid(command_line: CommandLine, content: bytes | str, options: tuple[str, ...]) -> None:
    file = "data/x.cfg" if CFG in options else FILE
    write(file, content)
    command_line.fails(Path(file).name, *FIT, *options)


@pytest.mark.slow
def test_good(command_line: CommandLine) -> None:
    write(FILE, GOOD)
    command_line.fails("weights", *FIT, WHOLE, "--model.anchors.init=kmeans")
    command_line.succeeds("", *FIT, BACKBONE)
    write("data/x.cfg", "[net]\n[region]\nanchors=1, 1, 2, 2\n")
    command_line.succeeds("", *FIT, CFG, "--trainer.default_root_dir=other", makes="other/**/last.ckpt")


@pytest.mark.parametrize("make", rows(SPECIAL))
def test_no_plain_file(command_line: CommandLine, make: Callable[[], None]) -> None:
    command_line.copy("synthetic")
    make()
    command_line.fails("x.weights", *FIT, BACKBONE)


@pytest.mark.parametrize("make", rows(STATES))
def test_invalid_state_dict(command_line: CommandLine, make: Callable[[], Any]) -> None:
    command_line.copy("synthetic")
    stream, content = io.BytesIO(), make()
    torch.save(content, stream)
    if content is not None:
        write("data/x.pth", content if isinstance(content, bytes) else stream.getvalue())
    command_line.fails("x.pth", *FIT, *RESNET)
    assert not list(Path().rglob("evil"))
