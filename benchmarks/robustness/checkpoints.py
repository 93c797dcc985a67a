"""Checkpoints: cut, foreign, older, of another configuration, and with code in them."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.robustness.harness import Case
from benchmarks.robustness.made import write

FIT = ("--ckpt_path=data/last.ckpt", "--trainer.max_steps=4")


class Evil:
    """An object whose loading runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


def edited(data: Path, edit: Callable[[dict[str, Any]], object], *more: str) -> Sequence[str]:
    """The checkpoint with another content; what the edit returns replaces it, unless that is None."""
    file = data / "last.ckpt"
    content = torch.load(file, weights_only=True)
    result = edit(content)
    torch.save(content if result is None else result, file)
    return (*FIT, *more)


def cut(data: Path, share: float, fewer: int = 0) -> Sequence[str]:
    """The checkpoint's first bytes."""
    file = data / "last.ckpt"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share) - fewer])
    return FIT


def as_bytes(data: Path, content: bytes) -> Sequence[str]:
    """Another file under its name."""
    write(data / "last.ckpt", content)
    return FIT


def flipped(data: Path, share: float) -> Sequence[str]:
    """The checkpoint with 64 bytes overwritten."""
    file = data / "last.ckpt"
    content = bytearray(file.read_bytes())
    place = int(len(content) * share)
    content[place : place + 64] = bytes(b ^ 0xFF for b in content[place : place + 64])
    file.write_bytes(bytes(content))
    return FIT


def as_folder(data: Path) -> Sequence[str]:
    """A folder under its name."""
    (data / "last.ckpt").unlink()
    (data / "last.ckpt").mkdir()
    return FIT


def as_zip(data: Path) -> Sequence[str]:
    """A ZIP archive of text."""
    with zipfile.ZipFile(data / "last.ckpt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    return FIT


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    """Takes keys away."""

    def edit(content: dict[str, Any]) -> None:
        for key in keys:
            content.pop(key)

    return edit


def not_finite(content: dict[str, Any]) -> None:
    """A weight that is NaN."""
    weights = next(v for k, v in content["state_dict"].items() if k.startswith("detector") and v.is_floating_point())
    weights[(0,) * weights.ndim] = float("nan")


def no_evil() -> str | None:
    """Whether the code in a file was run."""
    return "code in the file was run" if any(Path().rglob("evil")) else None


def cases() -> list[Case]:
    """For `fit`, then for what else reads checkpoints."""
    group, says = "Checkpoints", r"--ckpt_path: data/last\.ckpt|data/last\.ckpt"
    pickled = pickle.dumps(Evil())
    spoilers: dict[str, Callable[[Path], Sequence[str]]] = {
        "empty": partial(as_bytes, content=b""),
        "cut to 1 byte": partial(as_bytes, content=b"P"),
        "cut to 1 %": partial(cut, share=0.01),
        "cut to 50 %": partial(cut, share=0.5),
        "cut to 99 %": partial(cut, share=0.99),
        "cut by its last byte": partial(cut, share=1, fewer=1),
        "text": partial(as_bytes, content=b"hello"),
        "an HTML page": partial(as_bytes, content=b"<html>404</html>"),
        "a Git LFS pointer": partial(as_bytes, content=b"version https://git-lfs.github.com/spec/v1\n"),
        "zeros": partial(as_bytes, content=bytes(10_000)),
        "a folder": as_folder,
        "a ZIP archive of text": as_zip,
        "its index overwritten": partial(flipped, share=0.9999),
        "a pickle that runs a command": partial(as_bytes, content=pickled),
        "an object that runs a command, saved by torch": partial(edited, edit=lambda c: {**c, "x": Evil()}),
        "a list": partial(edited, edit=lambda c: [1, 2]),
        "a tensor": partial(edited, edit=lambda c: torch.zeros(3)),
        "a state dict without more": partial(edited, edit=lambda c: c["state_dict"]),
        "a checkpoint of another project": partial(edited, edit=lambda c: {"state_dict": {"fc": torch.zeros(1)}}),
        "a state_dict that is a list": partial(edited, edit=lambda c: {**c, "state_dict": [1]}),
        "weights only": partial(edited, edit=without("optimizer_states", "lr_schedulers")),
    }
    result = [Case(group, what, "trained", prepare, says=says, after=no_evil) for what, prepare in spoilers.items()]
    contents: dict[str, tuple[Callable[[dict[str, Any]], object], tuple[str, ...], str]] = {
        "another width": (lambda c: None, ("--model.width=0.2",), "model.width: the checkpoint was made with 0.1"),
        "another number of classes": (lambda c: None, ("--data.num_classes=2",), "num_classes"),
        "another number of anchors": (lambda c: None, ("--model.anchors.num=3",), "model.anchors.num"),
        "another head": (lambda c: None, ("--model.bn_without_shift=false",), "model.bn_without_shift"),
        "another detector": (
            lambda c: None,
            (
                "--model.detector=ssd_small",
                "--model.width=1.0",
                "--model.bn_scale_init=1.0",
                "--model.prior_images=12800",
            ),
            "model.detector",
        ),
        "no hyper_parameters": (without("hyper_parameters"), (), "last.ckpt|model.detector"),
        "hyper_parameters that are a list": (lambda c: c.update(hyper_parameters=[1]), (), "last.ckpt"),
        "shapes that are text": (lambda c: c["state_dict"].update({"shapes.log_wh": "x"}), (), "last.ckpt"),
        "shapes that are NaN": (
            _nan_shapes,
            (),
            "shapes|last.ckpt",
        ),
        "a weight that is NaN": (not_finite, (), "last.ckpt|finite"),
        "a weight that is missing": (_lack_a_weight, (), "last.ckpt"),
        "a weight of another shape": (_other_shape, (), "last.ckpt"),
        "optimizer_states that are empty": (lambda c: c.update(optimizer_states=[]), (), "last.ckpt"),
        "a global_step that is text": (lambda c: c.update(global_step="x"), (), "last.ckpt|global_step"),
        "no loops": (without("loops"), (), "last.ckpt"),
        "no pytorch-lightning_version": (without("pytorch-lightning_version"), (), "last.ckpt"),
    }
    for what, (edit, more, names) in contents.items():
        result.append(Case(group, what, "trained", partial(_edited, edit=edit, more=more), says=names))
    result += [
        Case(group, "a whole one, further steps", "trained", lambda d: FIT, "goes on"),
        Case(
            *(group, "a whole one, no step left", "trained", lambda d: FIT[:1], "goes on", "Nothing is left to train"),
            makes="",
        ),
        Case(
            group,
            "a whole one, written by a newer Lightning",
            "trained",
            partial(edited, edit=lambda c: c.update({"pytorch-lightning_version": "99.0.0"})),
            "goes on",
        ),
        Case(
            group,
            "a whole one, without what this project adds",
            "trained",
            partial(edited, edit=without("anchor_lightning")),
            "goes on",
        ),
        Case(
            group,
            "`last`, where there is no run",
            "trained",
            lambda d: ["--ckpt_path=last"],
            "goes on",
            "starts afresh",
        ),
        Case(group, "`--resume`, where there is no run", "trained", lambda d: ["--resume"], "goes on", "starts afresh"),
        Case(
            group,
            "validate: `last`, where there is no run",
            "trained",
            lambda d: ["--ckpt_path=last"],
            says="last",
            command=("validate",),
        ),
        Case(group, "a file that is missing", "trained", lambda d: ["--ckpt_path=ghost.ckpt"], says="ghost.ckpt"),
    ]
    readers: dict[str, tuple[tuple[str, ...], bool]] = {
        "validate": (("validate",), False),
        "test": (("test",), False),
        "predict": (("predict",), False),
        "predict --source": (("predict", "--source=data/image.png", "--ckpt_path=data/last.ckpt"), True),
        "export --format darknet": (("export", "--format=darknet", "--ckpt_path=data/last.ckpt"), True),
        "anchors export": (("anchors", "export", "--to=darknet", "--shapes=data/last.ckpt"), True),
    }
    evil = partial(edited, edit=lambda c: {**c, "x": Evil()})
    for name, (command, plain) in readers.items():
        for what, spoil in (("cut to 50 %", partial(cut, share=0.5)), ("an object that runs a command", evil)):
            prepare = partial(_for_reader, spoil=spoil, more=() if plain else FIT[:1])
            result.append(
                Case(
                    group,
                    f"{name}: {what}",
                    "trained",
                    prepare,
                    command=command,
                    plain=plain,
                    says=r"last\.ckpt",
                    after=no_evil,
                )
            )
    return result


def _edited(data: Path, edit: Callable[[dict[str, Any]], object], more: tuple[str, ...]) -> Sequence[str]:
    return edited(data, edit, *more)


def _for_reader(data: Path, spoil: Callable[[Path], object], more: tuple[str, ...]) -> Sequence[str]:
    from benchmarks.robustness.images import encoded

    write(data / "image.png", encoded("PNG"))
    spoil(data)
    return more


def _nan_shapes(content: dict[str, Any]) -> None:
    content["state_dict"]["shapes.log_wh"].fill_(float("nan"))


def _lack_a_weight(content: dict[str, Any]) -> None:
    content["state_dict"].pop(next(k for k in content["state_dict"] if k.endswith("weight")))


def _other_shape(content: dict[str, Any]) -> None:
    content["state_dict"][next(k for k in content["state_dict"] if k.endswith("weight"))] = torch.zeros(3)
