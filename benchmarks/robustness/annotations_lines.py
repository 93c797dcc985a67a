"""Brainwash's .idl, and YOLO's labels with their data.yaml."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.robustness.harness import Case
from benchmarks.robustness.made import write

IMAGE = "images_train/00000000_128x96.png"


def with_idl(data: Path, line: str | bytes) -> None:
    """The first line of the training list as another one."""
    file = data / "brainwash_train.idl"
    _, _, rest = file.read_bytes().partition(b"\n")
    file.write_bytes((line.encode() if isinstance(line, str) else line) + b"\n" + rest)


def brainwash() -> list[Case]:
    """Lines of an .idl."""
    group = "Brainwash annotations"
    refused: dict[str, tuple[str | bytes, str]] = {
        "a box of three numbers": (f'"{IMAGE}": (1, 2, 3);', "line 1"),
        "a box of words": (f'"{IMAGE}": (a, b, c, d);', "line 1"),
        "a bracket that is not closed": (f'"{IMAGE}": (1, 2, 3, 4;', "line 1"),
        "a name without quotes": (f"{IMAGE}: (1, 2, 3, 4);", "line 1"),
        "a quote that is not closed": (f'"{IMAGE}: (1, 2, 3, 4);', "line 1"),
        "an empty name": ('"": (1, 2, 3, 4);', "line 1"),
        "two images on a line": (f'"{IMAGE}": (1, 2, 3, 4); "x.png": (1, 2, 3, 4);', "line 1"),
        "text behind the boxes": (f'"{IMAGE}": (1, 2, 3, 4) and more;', "line 1"),
        "random bytes": (bytes(set(range(1, 256)) - {10, 13}), "line 1"),
        "an HTML page": ("<!DOCTYPE html><html>404</html>", "line 1"),
        "an image twice": ('"images_train/00000001_128x96.png";', "line 2: .* is listed before"),
        "an image that is missing": ('"ghost.png": (1, 2, 3, 4);', "ghost.png: no such image"),
        "a name that is a folder": ('"images_train": (1, 2, 3, 4);', "images_train: cannot be read"),
        "a name with a zero byte": (b'"a\x00b.png": (1, 2, 3, 4);', "b.png"),
        "a name of 5,000 letters": ('"' + "x" * 5000 + '";', "xxx"),
        "a name that is not UTF-8": (b'"caf\xe9.png";', "caf.*png"),
        "a number of 30,000 digits that does not end": (f'"{IMAGE}": (' + "1" * 30_000, "line 1"),
        "a line of 1,000,000 brackets": (f'"{IMAGE}": ' + "(" * 1_000_000, "line 1"),
    }
    result = [
        Case(group, what, "brainwash", partial(with_idl, line=line), says=says)
        for what, (line, says) in refused.items()
    ]
    repaired: dict[str, tuple[str, str]] = {
        "reversed corners": (f'"{IMAGE}": (90, 80, 10, 20);', "1 corners swapped"),
        "a box that leaves the image": (f'"{IMAGE}": (10, 10, 900, 900);', "1 clipped"),
        "a box outside": (f'"{IMAGE}": (1000, 10, 2000, 90);', "1 dropped, no area"),
        "a box without area": (f'"{IMAGE}": (10, 10, 10, 90);', "1 dropped, no area"),
        "NaN": (f'"{IMAGE}": (nan, 10, 20, 90);', "1 dropped, not a number"),
        "infinity": (f'"{IMAGE}": (0, 0, inf, inf);', "1 dropped, not a number"),
        "1e400": (f'"{IMAGE}": (0, 0, 1e400, 9);', "1 dropped, not a number"),
        "an image without heads": (f'"{IMAGE}";', ""),
        "no space, no semicolon": (f'"{IMAGE}":(10,10,40,40),(20,20,60,60)', ""),
        "blank lines and a carriage return": (f'\n  \n"{IMAGE}": (10, 10, 40, 40);\r', ""),
        "5,000 heads": (f'"{IMAGE}": ' + ", ".join(["(10, 10, 40, 40)"] * 5000) + ";", ""),
    }
    result += [
        Case(group, what, "brainwash", partial(with_idl, line=line), "goes on", says)
        for what, (line, says) in repaired.items()
    ]
    empty = "brainwash_train.idl"
    result += [
        Case(group, "an empty list", "brainwash", lambda d: write(d / empty, "") and None, says="has no images"),
        Case(group, "no list", "brainwash", lambda d: (d / empty).unlink(), says="brainwash_train.idl: no such"),
        Case(group, "a list that is a folder", "brainwash", _list_as_folder, says="brainwash_train.idl"),
        Case(group, "a list in UTF-16", "brainwash", _list_in_utf16, says="brainwash_train.idl, line 1"),
        Case(group, "no image folder", "brainwash", lambda d: shutil.rmtree(d / "images_train"), says="no such image"),
    ]
    return result


def _list_as_folder(data: Path) -> None:
    (data / "brainwash_train.idl").unlink()
    (data / "brainwash_train.idl").mkdir()


def _list_in_utf16(data: Path) -> None:
    file = data / "brainwash_train.idl"
    file.write_bytes(file.read_text().encode("utf-16"))


def with_label(data: Path, text: str | bytes) -> None:
    """The first training image's labels as another text."""
    write(data / "labels" / "train" / "00000.txt", text)


def with_yaml(data: Path, text: str | bytes) -> None:
    """Another data.yaml."""
    write(data / "data.yaml", text)


def yolo() -> list[Case]:
    """Label lines, then the data.yaml."""
    group, where = "YOLO annotations", r"00000\.txt:1"
    lines: dict[str, tuple[str | bytes, str]] = {
        "words": ("dog 0.5 0.5 0.2 0.2", where),
        "three numbers": ("0 0.5 0.5", where),
        "six numbers": ("0 0.5 0.5 0.2 0.2 0.9", where),
        "pixels": ("0 64 48 20 20", f"{where}.*not pixels"),
        "a class out of range": ("7 0.5 0.5 0.2 0.2", f"{where}.*class 7 is out of range"),
        "a negative class": ("-1 0.5 0.5 0.2 0.2", where),
        "a class that is no whole number": ("0.5 0.5 0.5 0.2 0.2", where),
        "a class that is NaN": ("nan 0.5 0.5 0.2 0.2", where),
        "a class 1e300": ("1e300 0.5 0.5 0.2 0.2", where),
        "NaN": ("0 nan 0.5 0.2 0.2", where),
        "a negative width": ("0 0.5 0.5 -0.2 0.2", where),
        "commas": ("0,0.5,0.5,0.2,0.2", where),
        "an outline of odd length": ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", where),
        "not UTF-8": (b"0 0.5 0.5 0.2 0.2 caf\xe9", r"00000\.txt"),
        "zeros": (bytes(50), where),
        "an HTML page": ("<html>", where),
    }
    result = [
        Case(group, what, "yolo", partial(with_label, text=text), says=says) for what, (text, says) in lines.items()
    ]
    repaired: dict[str, tuple[str | bytes, str]] = {
        "a width of zero": ("0 0.5 0.5 0 0.2", "1 dropped, no area"),
        "a box that leaves the image": ("0 0.95 0.5 0.4 0.2", "1 clipped"),
        "an empty label file": ("", ""),
        "an outline": ("0 0.1 0.1 0.6 0.1 0.6 0.7", ""),
        "a byte order mark and carriage returns": (b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\r\n\r\n", ""),
        "a value rounded to 1.000001": ("0 0.5 0.5 1.000001 0.2", ""),
    }
    result += [
        Case(group, what, "yolo", partial(with_label, text=text), "goes on", says)
        for what, (text, says) in repaired.items()
    ]
    gone = partial(_unlink, name="labels/train/00000.txt")
    result.append(Case(group, "no label file", "yolo", gone, "goes on"))
    result.append(Case(group, "an image whose name is not UTF-8", "yolo", _latin_image, "goes on"))
    plain, names = "train: images/train\nval: images/val\n", "names: [dog, cat]\n"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    yamls: dict[str, tuple[str | bytes, str]] = {
        "data.yaml: empty": ("", "neither 'train' nor 'val'"),
        "data.yaml: a list": ("- 1\n", "neither 'train' nor 'val'"),
        "data.yaml: no YAML": ("train: [unclosed", "is no YAML"),
        "data.yaml: tabs": ("train:\n\t- images", "is no YAML"),
        "data.yaml: not UTF-8": (b"names: [caf\xe9]", "cannot be read"),
        "data.yaml: Python objects": (plain + "x: !!python/object/apply:os.system ['touch evil']\n", "is no YAML"),
        "data.yaml: a date that does not exist": (plain + names + "x: 2020-99-99\n", "is no YAML"),
        "data.yaml: 5,000 brackets": (plain + "x: " + "[" * 5000, "is no YAML"),
        "data.yaml: names that are a number": (plain + "names: 3\n", "'names'"),
        "data.yaml: a name twice": (plain + "names: [dog, dog]\n", "'dog' comes 2 times"),
        "data.yaml: names with a gap": (plain + "names: {0: dog, 2: cat}\n", "'names'"),
        "data.yaml: names that are an alias bomb": (plain + bomb + "names: *i\n", "'names'"),
        "data.yaml: train that is an alias bomb": (bomb + names + "val: images/val\ntrain: *i\n", "train"),
        "data.yaml: train that is missing on disk": ("train: nowhere\nval: images/val\n" + names, "nowhere"),
        "data.yaml: train that is a number": ("train: 5\nval: images/val\n" + names, "5"),
        "data.yaml: a folder without images": ("train: labels\nval: images/val\n" + names, "has no images"),
        "data.yaml: train that is a .yaml": ("train: data.yaml\nval: images/val\n" + names, "neither a folder"),
        "data.yaml: the same images twice": ("train: images/val\nval: images/val\n" + names, "images are both"),
    }
    result += [
        Case(group, what, "yolo", partial(with_yaml, text=text), says=says) for what, (text, says) in yamls.items()
    ]
    others: dict[str, tuple[Callable[[Path], object], str]] = {
        "no names, a class 99,999,999,999": (_huge_class, "99,?999,?999,?999"),
        "classes.txt that is not UTF-8": (_latin_classes, "classes.txt"),
        "a list of images that is not UTF-8": (_latin_list, "train.txt"),
        "a list that names what is not there": (_ghost_list, "ghost.jpg: no such image"),
        "an empty root": (lambda d: shutil.rmtree(d / "images") or (d / "data.yaml").unlink(), "data"),
        "a data_yaml that is missing": (lambda d: ["--data.data_yaml=ghost.yaml"], "ghost.yaml"),
    }
    return result + [Case(group, what, "yolo", spoil, says=says) for what, (spoil, says) in others.items()]


def _unlink(data: Path, name: str) -> None:
    (data / name).unlink()


def _latin_image(data: Path) -> None:
    for folder, suffix in (("images", "jpg"), ("labels", "txt")):
        path = data / folder / "train" / f"00000.{suffix}"
        path.rename(path.with_name(os.fsdecode(b"caf\xe9.") + suffix))


def _huge_class(data: Path) -> None:
    with_yaml(data, "train: images/train\nval: images/val\n")
    with_label(data, "99999999999 0.5 0.5 0.2 0.2\n")


def _latin_classes(data: Path) -> None:
    with_yaml(data, "train: images/train\nval: images/val\n")
    write(data / "classes.txt", b"dog\ncaf\xe9\n")


def _latin_list(data: Path) -> None:
    with_yaml(data, "train: train.txt\nval: images/val\nnames: [dog, cat]\n")
    write(data / "train.txt", b"images/train/caf\xe9.jpg\n")


def _ghost_list(data: Path) -> None:
    with_yaml(data, "train: train.txt\nval: images/val\nnames: [dog, cat]\n")
    write(data / "train.txt", "images/train/ghost.jpg\n")


def cases() -> list[Case]:
    """Both."""
    return brainwash() + yolo()
