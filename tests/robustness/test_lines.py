"""Brainwash's .idl, and YOLO's labels with their data.yaml."""

from __future__ import annotations

import os
import shutil
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
    rows,
    write,
)

IDL: Final = Path("data/brainwash_train.idl")
IMAGE: Final = '"images_train/00000000_128x96.png"'
INVALID_IDL: dict[str, object] = {
    "a box of three numbers": (f"{IMAGE}: (1, 2, 3);", "line.1"),
    "a box of words": (f"{IMAGE}: (a, b, c, d);", "line.1"),
    "a bracket that is not closed": (f"{IMAGE}: (1, 2, 3, 4;", "line.1"),
    "a name without quotes": (f"{IMAGE[1:-1]}: (1, 2, 3, 4);", "line.1"),
    "a quote that is not closed": (f"{IMAGE[:-1]}: (1, 2, 3, 4);", "line.1"),
    "an empty name": ('"": (1, 2, 3, 4);', "line.1"),
    "two images on a line": (f'{IMAGE}: (1, 2, 3, 4); "x.png": (1, 2, 3, 4);', "line.1"),
    "text behind the boxes": (f"{IMAGE}: (1, 2, 3, 4) and more;", "line.1"),
    "random bytes": (bytes(set(range(1, 256)) - {10, 13}), "line.1"),
    "an HTML page": ("<!DOCTYPE html><html>404</html>", "line.1"),
    "an image twice": ('"images_train/00000001_128x96.png";', "line.2"),
    "an image that is missing": ('"ghost.png": (1, 2, 3, 4);', "ghost.png"),
    "a name that is a folder": ('"images_train": (1, 2, 3, 4);', "images_train"),
    "a name with a zero byte": (b'"a\x00b.png": (1, 2, 3, 4);', "b.png"),
    "a name of 5,000 letters": ('"' + "x" * 5000 + '";', "xxx"),
    "a name that is not UTF-8": (b'"caf\xe9.png";', "caf.*png"),
    "a number of 30,000 digits that does not end": (f"{IMAGE}: (" + "1" * 30_000, "line.1"),
    "a line of 1,000,000 brackets": (f"{IMAGE}: " + "(" * 1_000_000, "line.1"),
}
REPAIRED_IDL: dict[str, object] = {
    "reversed corners": (f"{IMAGE}: (90, 80, 10, 20);", SWAPPED),
    "a box that leaves the image": (f"{IMAGE}: (10, 10, 900, 900);", CLIPPED),
    "a box outside": (f"{IMAGE}: (1000, 10, 2000, 90);", DROPPED_EMPTY),
    "a box without area": (f"{IMAGE}: (10, 10, 10, 90);", DROPPED_EMPTY),
    "NaN": (f"{IMAGE}: (nan, 10, 20, 90);", DROPPED_NAN),
    "infinity": (f"{IMAGE}: (0, 0, inf, inf);", DROPPED_NAN),
    "1e400": (f"{IMAGE}: (0, 0, 1e400, 9);", DROPPED_NAN),
    "an image without heads": (f"{IMAGE};", ""),
    "no space, no semicolon": (f"{IMAGE}:(10,10,40,40),(20,20,60,60)", ""),
    "blank lines and a carriage return": (f"\n  \n{IMAGE}: (10, 10, 40, 40);\r", ""),
    "5,000 heads": (f"{IMAGE}: " + ", ".join(["(10, 10, 40, 40)"] * 5000) + ";", ""),
}
SPOILT_IDL: dict[str, object] = {
    "an empty list": (lambda: write(IDL, ""), "has.no.images"),
    "no list": (IDL.unlink, IDL.name),
    "a list that is a folder": (lambda: IDL.rename("x") and IDL.mkdir(), IDL.name),
    "a list in UTF-16": (lambda: IDL.write_bytes(IDL.read_text().encode("utf-16")), f"{IDL.name} line.1"),
    "no image folder": (lambda: shutil.rmtree("data/images_train"), "images_train"),
}


def replace_line(command_line: CommandLine, line: str | bytes) -> None:
    """Another first line of the training list."""
    command_line.copy("brainwash")
    rest = IDL.read_bytes().partition(b"\n")[2]
    IDL.write_bytes((line.encode() if isinstance(line, str) else line) + b"\n" + rest)


@pytest.mark.parametrize(("line", "says"), rows(INVALID_IDL, ("a name with a zero byte",)))
def test_invalid_idl(command_line: CommandLine, line: str | bytes, says: str) -> None:
    replace_line(command_line, line)
    command_line.fails(says, "fit", *ARGS["brainwash"])


@pytest.mark.parametrize(("line", "says"), rows(REPAIRED_IDL, ("reversed corners",)))
def test_repaired_idl(command_line: CommandLine, line: str | bytes, says: str) -> None:
    replace_line(command_line, line)
    command_line.succeeds(f"{IDL.name} {says}" if says else "", "fit", *ARGS["brainwash"])


@pytest.mark.parametrize(("spoil", "says"), rows(SPOILT_IDL))
def test_spoilt_idl(command_line: CommandLine, spoil: Callable[[], object], says: str) -> None:
    command_line.copy("brainwash")
    spoil()
    command_line.fails(says, "fit", *ARGS["brainwash"])


LABEL: Final = Path("data/labels/train/00000.txt")
PLAIN, NAMES = "train: images/train\nval: images/val\n", "names: [dog, cat]\n"
INVALID_LABEL: dict[str, object] = {
    "words": ("dog 0.5 0.5 0.2 0.2", ":1"),
    "three numbers": ("0 0.5 0.5", ":1"),
    "six numbers": ("0 0.5 0.5 0.2 0.2 0.9", ":1"),
    "pixels": ("0 64 48 20 20", ":1 pixels"),
    "a class out of range": ("7 0.5 0.5 0.2 0.2", ":1 class.7"),
    "a negative class": ("-1 0.5 0.5 0.2 0.2", ":1"),
    "a class that is no whole number": ("0.5 0.5 0.5 0.2 0.2", ":1"),
    "a class that is NaN": ("nan 0.5 0.5 0.2 0.2", ":1"),
    "a class 1e300": ("1e300 0.5 0.5 0.2 0.2", ":1"),
    "NaN": ("0 nan 0.5 0.2 0.2", ":1"),
    "a negative width": ("0 0.5 0.5 -0.2 0.2", ":1"),
    "commas": ("0,0.5,0.5,0.2,0.2", ":1"),
    "an outline of odd length": ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", ":1"),
    "not UTF-8": (b"0 0.5 0.5 0.2 0.2 caf\xe9", ""),
    "zeros": (bytes(50), ":1"),
    "an HTML page": ("<html>", ":1"),
}
REPAIRED_LABEL: dict[str, object] = {
    "a width of zero": ("0 0.5 0.5 0 0.2", DROPPED_EMPTY),
    "a box that leaves the image": ("0 0.95 0.5 0.4 0.2", CLIPPED),
    "an empty label file": ("", ""),
    "an outline": ("0 0.1 0.1 0.6 0.1 0.6 0.7", ""),
    "a byte order mark and carriage returns": (b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\r\n\r\n", ""),
    "a value rounded to 1.000001": ("0 0.5 0.5 1.000001 0.2", ""),
}
INVALID_YAML: dict[str, object] = {
    "empty": ("", "data.yaml 'train'"),
    "a list": ("- 1\n", "data.yaml 'train'"),
    "no YAML": ("train: [unclosed", "data.yaml"),
    "tabs": ("train:\n\t- images", "data.yaml"),
    "not UTF-8": (b"names: [caf\xe9]", "data.yaml"),
    "Python objects": (PLAIN + "x: !!python/object/apply:os.system ['touch evil']\n", "data.yaml"),
    "a date that does not exist": (PLAIN + NAMES + "x: 2020-99-99\n", "data.yaml"),
    "5,000 brackets": (PLAIN + "x: " + "[" * 5000, "data.yaml"),
    "names that are a number": (PLAIN + "names: 3\n", "data.yaml 'names'"),
    "a name twice": (PLAIN + "names: [dog, dog]\n", "data.yaml 'dog' 2"),
    "names with a gap": (PLAIN + "names: {0: dog, 2: cat}\n", "data.yaml 'names'"),
    "names that are an alias bomb": (PLAIN + ALIAS_BOMB + "names: *i\n", "data.yaml 'names'"),
    "train that is an alias bomb": (ALIAS_BOMB + NAMES + "val: images/val\ntrain: *i\n", "data.yaml train"),
    "train that is missing on disk": ("train: nowhere\nval: images/val\n" + NAMES, "nowhere"),
    "train that is a number": ("train: 5\nval: images/val\n" + NAMES, "5"),
    "a folder without images": ("train: labels\nval: images/val\n" + NAMES, "has.no.images"),
    "train that is a .yaml": ("train: data.yaml\nval: images/val\n" + NAMES, "data.yaml folder"),
    "the same images twice": ("train: images/val\nval: images/val\n" + NAMES, "4.images val"),
}
LIST_YAML = "train: train.txt\nval: images/val\n" + NAMES
FILES: dict[str, object] = {
    "no names, a class 99,999,999,999": (
        {"data.yaml": PLAIN, "labels/train/00000.txt": "99999999999 0.5 0.5 0.2 0.2\n"},
        "99,?999,?999,?999",
    ),
    "classes.txt that is not UTF-8": ({"data.yaml": PLAIN, "classes.txt": b"dog\ncaf\xe9\n"}, "classes.txt"),
    "a list of images that is not UTF-8": (
        {"data.yaml": LIST_YAML, "train.txt": b"images/train/caf\xe9.jpg\n"},
        "train.txt",
    ),
    "a list that names what is not there": (
        {"data.yaml": LIST_YAML, "train.txt": "images/train/ghost.jpg\n"},
        "ghost.jpg",
    ),
}


@pytest.mark.parametrize(("text", "says"), rows(INVALID_LABEL, ("pixels",)))
def test_invalid_label(command_line: CommandLine, text: str | bytes, says: str) -> None:
    command_line.copy("yolo")
    write(LABEL, text)
    command_line.fails(f"{LABEL.name}{says}", "fit", *ARGS["yolo"])


@pytest.mark.parametrize(("text", "says"), rows(REPAIRED_LABEL))
def test_repaired_label(command_line: CommandLine, text: str | bytes, says: str) -> None:
    command_line.copy("yolo")
    write(LABEL, text)
    command_line.succeeds(says, "fit", *ARGS["yolo"])


@pytest.mark.parametrize(("text", "says"), rows(INVALID_YAML, ("names that are an alias bomb",)))
def test_invalid_yaml(command_line: CommandLine, text: str | bytes, says: str) -> None:
    command_line.copy("yolo")
    write("data/data.yaml", text)
    command_line.fails(says, "fit", *ARGS["yolo"])
    assert not Path("evil").exists()


@pytest.mark.parametrize(("files", "says"), rows(FILES))
def test_files(command_line: CommandLine, files: dict[str, str | bytes], says: str) -> None:
    command_line.copy("yolo")
    for name, content in files.items():
        write(Path("data", name), content)
    command_line.fails(says, "fit", *ARGS["yolo"])


@pytest.mark.slow
def test_missing_files(command_line: CommandLine) -> None:
    command_line.copy("yolo")
    command_line.fails("ghost.yaml", "fit", *ARGS["yolo"], "--data.data_yaml=ghost.yaml")
    LABEL.unlink()
    command_line.succeeds("", "fit", *ARGS["yolo"])
    shutil.rmtree("data")
    Path("data").mkdir()
    command_line.fails("data", "fit", *ARGS["yolo"])


@pytest.mark.slow
def test_an_image_name_that_is_not_utf8(command_line: CommandLine) -> None:
    command_line.copy("yolo")
    for path in (LABEL, Path("data/images/train/00000.jpg")):
        path.rename(path.with_stem(os.fsdecode(b"caf\xe9")))
    command_line.succeeds("", "fit", *ARGS["yolo"])
