"""Checkpoints: cut, foreign, older, of another configuration, and with code in them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest
import torch

from tests.helpers.bad_input import ARGS, DETECTOR, OTHER_DETECTOR, Command, CommandLine, cases, write

FILE: Final = Path("data/last.ckpt")
RESUME: Final = f"--ckpt_path={FILE}"
FIT = ("fit", *ARGS["trained"], RESUME, "--trainer.max_steps=4")
Content = dict[str, Any]


@pytest.fixture(autouse=True)
def _data(command_line: CommandLine) -> None:
    command_line.copy("trained")


def overwritten(whole: bytes) -> bytes:
    """The archive's index is not what it was."""
    place = int(len(whole) * 0.9999)
    return whole[:place] + bytes(b ^ 0xFF for b in whole[place : place + 64]) + whole[place + 64 :]


def archive(whole: bytes) -> bytes:
    """A ZIP archive of text."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("hello.txt", "hello")
    return stream.getvalue()


def without(*keys: str) -> Callable[[Content], None]:
    """Takes keys away."""
    return lambda content: [content.pop(key) for key in keys] and None


def edit_weight(value: Callable[[torch.Tensor], object] | None = None) -> Callable[[Content], None]:
    """Changes a convolution's weights, or takes them away."""

    def edit(content: Content) -> None:
        state = content["state_dict"]
        old = state.pop(key := next(key for key in state if key.endswith("weight")))
        state.update({key: value(old)} if value else {})

    return edit


BYTES: dict[str, object] = {
    "empty": lambda whole: b"",
    "cut to 50 %": lambda whole: whole[: len(whole) // 2],
    "cut by its last byte": lambda whole: whole[:-1],
    "text": lambda whole: b"<html>404</html>",
    "a ZIP archive of text": archive,
    "its index overwritten": overwritten,
    "a pickle that runs a command": lambda whole: pickle.dumps(Command()),
}
CONTENTS: dict[str, object] = {
    "an object that runs a command": lambda c: {**c, "x": Command()},
    "a list": lambda c: [1, 2],
    "a state dict without more": lambda c: c["state_dict"],
    "a state_dict that is a list": lambda c: {**c, "state_dict": [1]},
    "weights only": without("optimizer_states", "lr_schedulers"),
    "no loops": without("loops"),
    "without what this project adds": without("anchor_lightning"),
    "a weight that is NaN": edit_weight(lambda old: old * float("nan")),
    "a weight that is missing": edit_weight(),
    "a weight of another shape": edit_weight(lambda old: torch.zeros(3)),
}
OTHER_OPTIONS: dict[str, object] = {
    "another width": ((f"{DETECTOR}.width=0.2",), "width 0.1"),
    "another number of classes": (("--data.num_classes=2",), "num_classes"),
    "another number of anchors": (("--model.anchors.num=3",), "anchors.num"),
    "another head": ((f"{DETECTOR}.bn_without_shift=false",), "bn_without_shift"),
    "another detector": (OTHER_DETECTOR, "detector"),
}
GOOD: dict[str, object] = {
    "a whole one": lambda c: None,
    "written by a newer Lightning": lambda c: c.update({"pytorch-lightning_version": "99.0.0"}),
    "no hyper_parameters": without("hyper_parameters"),
}
READERS: dict[str, object] = {
    "validate": ("validate", *ARGS["trained"], RESUME),
    "test": ("test", *ARGS["trained"], RESUME),
    "predict": ("predict", *ARGS["trained"], RESUME),
    "predict --source": ("predict", "--source=data/image.png", RESUME),
    "export --format darknet": ("export", "--format=darknet", RESUME),
    "anchors export": ("anchors", "export", "--to=darknet", f"--shapes={FILE}"),
}


def edit_file(edit: Callable[[Content], Any]) -> None:
    """The checkpoint with another content; what the edit returns replaces it, unless that is None."""
    content = torch.load(FILE, weights_only=True)
    result = edit(content)
    torch.save(content if result is None else result, FILE)


@cases("change", BYTES, ("cut to 50 %",))
def test_bytes(command_line: CommandLine, change: Callable[[bytes], bytes]) -> None:
    FILE.write_bytes(change(FILE.read_bytes()))
    command_line.fails("last.ckpt", *FIT)


@cases("edit", CONTENTS, ("an object that runs a command", "a weight that is NaN"))
def test_content(command_line: CommandLine, edit: Callable[[Content], Any]) -> None:
    edit_file(edit)
    command_line.fails("last.ckpt|detector", *FIT)


@cases("options, says", OTHER_OPTIONS)
def test_other_options(command_line: CommandLine, options: tuple[str, ...], says: str) -> None:
    command_line.fails(says, *FIT, *options)


@cases("edit", GOOD)
def test_good(command_line: CommandLine, edit: Callable[[Content], Any]) -> None:
    edit_file(edit)
    command_line.succeeds("", *FIT)


@pytest.mark.slow
def test_nothing_left_to_train(command_line: CommandLine) -> None:
    command_line.succeeds("nothing.*left", *FIT[:-1], makes="")


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--ckpt_path=last", "--resume"])
def test_last_where_there_is_no_run(command_line: CommandLine, option: str) -> None:
    command_line.succeeds("afresh", "fit", *ARGS["trained"], option)


@pytest.mark.slow
def test_no_file(command_line: CommandLine) -> None:
    command_line.fails("ghost.ckpt", *FIT, "--ckpt_path=ghost.ckpt")
    command_line.fails("last", "validate", *ARGS["trained"], "--ckpt_path=last")
    FILE.unlink()
    FILE.mkdir()
    command_line.fails("last.ckpt", *FIT)


@pytest.mark.slow
@pytest.mark.parametrize("args", READERS.values(), ids=READERS)
def test_readers(command_line: CommandLine, args: tuple[str, ...]) -> None:
    write("data/image.png", bytes(cv2.imencode(".png", np.zeros((96, 128, 3), dtype=np.uint8))[1]))
    whole = FILE.read_bytes()
    edit_file(lambda content: {**content, "x": Command()})
    command_line.fails("last.ckpt", *args)
    FILE.write_bytes(whole[: len(whole) // 2])
    command_line.fails("last.ckpt", *args)
