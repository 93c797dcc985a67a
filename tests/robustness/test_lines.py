"""Brainwash's .idl, and YOLO's labels with their data.yaml."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.bad_input import (
    ALIAS_BOMB,
    ARGS,
    CLIPPED,
    DROPPED_EMPTY,
    DROPPED_NAN,
    SWAPPED,
    CommandLine,
    cases,
    write,
)

IDL: Final = Path("data/brainwash_train.idl")
IMAGE: Final = '"images_train/00000000_128x96.png"'
INVALID_IDL: dict[str, object] = {
    "a box of three numbers": (f"{IMAGE}: (1, 2, 3);", "line.1"),
    "a name without quotes": (f"{IMAGE[1:-1]}: (1, 2, 3, 4);", "line.1"),
    "no colon": (f"{IMAGE} (1, 2, 3, 4);", "line.1"),
    "an empty name": ('"": (1, 2, 3, 4);', "line.1"),
    "two images on a line": (f'{IMAGE}: (1, 2, 3, 4); "x.png": (1, 2, 3, 4);', "line.1"),
    "random bytes": (bytes(set(range(1, 256)) - {10, 13}), "line.1"),
    "an image twice": ('"images_train/00000001_128x96.png";', "line.2 00000001"),
    "an image that is missing": ('"ghost.png": (1, 2, 3, 4);', "ghost.png"),
    "a name that is a folder": ('"images_train": (1, 2, 3, 4);', "images_train"),
    "a name with a zero byte": (b'"a\x00b.png": (1, 2, 3, 4);', "b.png"),
    "a name of 5,000 letters": ('"' + "x" * 5000 + '";', "xxx"),
    "a name that is not UTF-8": (b'"caf\xe9.png";', "caf.*png"),
}
REPAIRED_IDL: dict[str, object] = {
    "broken boxes": (
        f"{IMAGE}: (90, 80, 10, 20), (10, 10, 900, 900), (1000, 10, 2000, 90), (0, 0, 1e400, 9);",
        f"{SWAPPED} {CLIPPED} {DROPPED_EMPTY} {DROPPED_NAN}",
    ),
    "no space, no semicolon": (f"{IMAGE}:(10,10,40,40),(20,20,60,60)", ""),
    "blank lines and a carriage return": (f"\n  \n{IMAGE}: (10, 10, 40, 40);\r", ""),
    "5,000 heads": (f"{IMAGE}: " + ", ".join(["(10, 10, 40, 40)"] * 5000) + ";", ""),
}
SPOILT_IDL: dict[str, object] = {
    "an empty list": (lambda: write(IDL, ""), "has.no.images"),
    "no list": (IDL.unlink, f"root {IDL.name}"),
    "a list that is a folder": (lambda: IDL.rename("x") and IDL.mkdir(), IDL.name),
    "a list in UTF-16": (lambda: IDL.write_bytes(IDL.read_text().encode("utf-16")), f"{IDL.name} line.1"),
}
LABEL: Final = Path("data/labels/train/00000.txt")
INVALID_LABEL: dict[str, object] = {
    "words on the second line": ("0 0.5 0.5 0.2 0.2\ndog 0.5 0.5 0.2 0.2", ":2"),
    "three numbers": ("0 0.5 0.5", ":1 3.numbers"),
    "an outline of odd length": ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", ":1 8.numbers"),
    "pixels": ("0 64 48 20 20", ":1 pixels"),
    "a negative width": ("0 0.5 0.5 -0.2 0.2", ":1 shares"),
    "NaN": ("0 nan 0.5 0.2 0.2", ":1 shares"),
    "a class out of range": ("7 0.5 0.5 0.2 0.2", ":1 class.7 0.to.1"),
    "a negative class": ("-1 0.5 0.5 0.2 0.2", ":1 class.-1"),
    "a class that is no whole number": ("0.5 0.5 0.5 0.2 0.2", ":1 class.0.5"),
    "a class 1e300": ("1e300 0.5 0.5 0.2 0.2", ":1 class"),
    "not UTF-8": (b"0 0.5 0.5 0.2 0.2 caf\xe9", ""),
}
REPAIRED_LABEL: dict[str, object] = {
    "broken boxes": ("0 0.5 0.5 0 0.2\n0 0.95 0.5 0.4 0.2", f"{DROPPED_EMPTY} {CLIPPED}"),
    "an empty label file": ("", ""),
    "an outline": ("0 0.1 0.1 0.6 0.1 0.6 0.7", ""),
    "a byte order mark and carriage returns": (b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\r\n\r\n", ""),
    "a value rounded to 1.000001": ("0 0.5 0.5 1.000001 0.2", ""),
}
TRAIN, VAL, NAMES = "train: images/train\n", "val: images/val\n", "names: [dog, cat]\n"
INVALID_YAML: dict[str, object] = {
    "a list": ("- 1\n", "'train'"),
    "no split": (NAMES, "'train'"),
    "another key than train": (f"{VAL}{NAMES}7: x\nb: y", "'train' 7,.b,.val"),
    "no YAML": ("train: [unclosed", "YAML"),
    "not UTF-8": (b"names: [caf\xe9]", "UTF-8"),
    "500 brackets": (f"{TRAIN}{VAL}x: " + "[" * 500, "YAML"),
    "names that are a number": (f"{TRAIN}{VAL}names: 3\n", "'names'"),
    "a name twice": (f"{TRAIN}{VAL}names: [dog, dog]\n", "'dog' 2"),
    "names with a gap": (f"{TRAIN}{VAL}names: {{0: dog, 2: cat}}\n", "'names'"),
    "names that are an alias bomb": (f"{TRAIN}{VAL}{ALIAS_BOMB}names: *i\n", "'names'"),
    "train that is an alias bomb": (f"{ALIAS_BOMB}{VAL}{NAMES}train: *i\n", "train"),
    "train that is missing on disk": (f"train: nowhere\n{VAL}{NAMES}", "nowhere"),
    "train of 5,000 letters": (f"train: {'x' * 5000}\n{VAL}{NAMES}", "train:.there.is.no"),
    "train that is a .yaml": (f"train: data.yaml\n{VAL}{NAMES}", "folder"),
}
IN_ROOT, LISTED = f"{TRAIN}{VAL}", f"train: train.txt\n{VAL}{NAMES}"
FILES: dict[str, object] = {
    "a folder without images": ({"data.yaml": f"train: labels\n{VAL}{NAMES}"}, "has.no.images"),
    "the same images twice": ({"data.yaml": f"train: images/val\n{VAL}{NAMES}"}, "4.images val"),
    "no names, a class 99,999,999,999": (
        {"data.yaml": IN_ROOT, "labels/train/00000.txt": "99999999999 0.5 0.5 0.2 0.2\n"},
        r"00000\.txt:1 99,?999,?999,?999",
    ),
    "classes.txt that is not UTF-8": ({"data.yaml": IN_ROOT, "classes.txt": b"dog\ncaf\xe9\n"}, "classes.txt"),
    "a list that is not UTF-8": ({"data.yaml": LISTED, "train.txt": b"images/train/caf\xe9.jpg\n"}, "train.txt"),
    "a list that names a ghost": ({"data.yaml": LISTED, "train.txt": "images/train/ghost.jpg\n"}, "ghost.jpg"),
    "a list with a zero byte": ({"data.yaml": LISTED, "train.txt": "images/train/a\0b.jpg\n"}, "cannot.be.read"),
}


def replace_line(command_line: CommandLine, line: str | bytes) -> None:
    """Another first line of Brainwash's training list."""
    command_line.copy("brainwash")
    rest = IDL.read_bytes().partition(b"\n")[2]
    IDL.write_bytes((line.encode() if isinstance(line, str) else line) + b"\n" + rest)


@cases("line, says", INVALID_IDL, ("a name with a zero byte",), reads=True)
def test_invalid_idl(command_line: CommandLine, line: str | bytes, says: str) -> None:
    replace_line(command_line, line)
    command_line.fails(says, "fit", *ARGS["brainwash"])


@cases("line, says", REPAIRED_IDL, ("broken boxes",), reads=True)
def test_repaired_idl(command_line: CommandLine, line: str | bytes, says: str) -> None:
    replace_line(command_line, line)
    command_line.succeeds(f"{IDL.name} {says}" if says else "", "fit", *ARGS["brainwash"])


@cases("spoil, says", SPOILT_IDL, reads=True)
def test_spoilt_idl(command_line: CommandLine, spoil: Callable[[], object], says: str) -> None:
    command_line.copy("brainwash")
    spoil()
    command_line.fails(says, "fit", *ARGS["brainwash"])


@cases("text, says", INVALID_LABEL, ("pixels",), reads=True)
def test_invalid_label(command_line: CommandLine, text: str | bytes, says: str) -> None:
    command_line.copy("yolo")
    write(LABEL, text)
    command_line.fails(f"{LABEL.name}{says}", "fit", *ARGS["yolo"])


@cases("text, says", REPAIRED_LABEL, reads=True)
def test_repaired_label(command_line: CommandLine, text: str | bytes, says: str) -> None:
    command_line.copy("yolo")
    write(LABEL, text)
    command_line.succeeds(says, "fit", *ARGS["yolo"])


@cases("text, says", INVALID_YAML, ("names that are an alias bomb",), reads=True)
def test_invalid_yaml(command_line: CommandLine, text: str | bytes, says: str) -> None:
    command_line.copy("yolo")
    write("data/data.yaml", text)
    command_line.fails(f"data.yaml {says}", "fit", *ARGS["yolo"])


@cases("files, says", FILES, reads=True)
def test_files(command_line: CommandLine, files: dict[str, str | bytes], says: str) -> None:
    command_line.copy("yolo")
    for name, content in files.items():
        write(Path("data", name), content)
    command_line.fails(says, "fit", *ARGS["yolo"])


@pytest.mark.slow
def test_missing_files_and_a_name_that_is_not_utf8(command_line: CommandLine) -> None:
    command_line.copy("yolo")
    command_line.fails("ghost.yaml", "fit", *ARGS["yolo"], "--data.data_yaml=ghost.yaml")
    for path in (LABEL, Path("data/images/train/00000.jpg")):
        path.rename(path.with_stem(os.fsdecode(b"caf\xe9")))
    command_line.succeeds("", "fit", *ARGS["yolo"])
