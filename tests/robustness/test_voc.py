"""VOC's annotations, lists and folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.bad_input import ARGS, CLIPPED, DROPPED_EMPTY, DROPPED_NAN, SWAPPED, CommandLine, rows, write

FIT = ("fit", *ARGS["voc"])
STEM: Final = "2012_10000"
XML: Final = Path("data/Annotations", f"{STEM}.xml")
LIST: Final = Path("data/ImageSets/Main/train.txt")
CLASSES: Final = '--data.class_names=["cat","dog"]'
"""Given, so that the first annotation alone counts."""
DIFFICULT: Final = "<difficult>{}</difficult>"
BOMB: Final = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]><annotation><object><name>&j;</name></object></annotation>"
)
OUTSIDE_FILE: Final = (
    '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><annotation><object><name>&f;</name></object></annotation>'
)


def boxed(*box: object, name: str = "dog", more: str = "") -> str:
    """An `<object>` with the corners as given."""
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def xml(*objects: str) -> str:
    """An annotation."""
    return f"<annotation>{''.join(objects)}</annotation>"


DOG, FAR, FLAT = boxed(11, 11, 50, 60), boxed(5000, 5000, 6000, 6000), boxed(9, 9, 9, 30)
WHOLE = xml(DOG)
PART = boxed(1, 1, 5, 5, name="head").replace("object", "part")
INVALID: dict[str, object] = {
    "an empty annotation file": ("", "xml"),
    "cut in the middle": (WHOLE[: len(WHOLE) // 2], "xml"),
    "cut by its last byte": (WHOLE[:-1], "xml"),
    "JSON": ("{}", "xml"),
    "zeros": (bytes(500), "xml"),
    "random bytes": (bytes(range(256)), "xml"),
    "an HTML page": ("<html><body>404</body></html>", "<html>"),
    "an HTML page with a document type": ("<!DOCTYPE html><html></html>", "document.type"),
    "another root": ("<annotations></annotations>", "<annotations>"),
    "two roots": (WHOLE + WHOLE, "xml"),
    "an entity bomb (10^10 letters)": (BOMB, "entit"),
    "an entity bomb in UTF-16": (BOMB.replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"), "entit"),
    "an entity that names a file": (OUTSIDE_FILE, "entit"),
    "an entity that is not declared": (xml("<object><name>&dog;</name></object>"), "xml"),
    "not UTF-8, no encoding declared": (xml(boxed(1, 1, 9, 9, name="chat é")).encode("latin-1"), "xml"),
    "an encoding that nobody knows": ('<?xml version="1.0" encoding="klingon"?>' + WHOLE, "xml"),
    "an object without name": (xml(DOG.replace("<name>dog</name>", "")), "class ''"),
    "an object without box": (xml("<object><name>dog</name></object>"), "xmin"),
    "a box without ymax": (xml(DOG.replace("<ymax>60</ymax>", "")), "ymax"),
    "a corner that is a word": (xml(boxed(1, "two", 9, 9)), "'two'"),
    "a corner with a decimal comma": (xml(boxed(1, "2,5", 9, 9)), "'2,5'"),
    "an empty corner": (xml(boxed(1, "", 9, 9)), "ymin"),
    "an unknown class": (xml(boxed(1, 1, 9, 9, name="unicorn")), "'unicorn'"),
}
REPAIRED: dict[str, object] = {
    "reversed corners": (xml(boxed(50, 60, 11, 11)), SWAPPED),
    "a box that leaves the image": (xml(boxed(11, 11, 900, 900)), CLIPPED),
    "a box outside the image": (xml(DOG, FAR), DROPPED_EMPTY),
    "negative corners": (xml(boxed(-50, -60, 30, 30)), CLIPPED),
    "a box without area": (xml(DOG, FLAT), DROPPED_EMPTY),
    "NaN": (xml(DOG, boxed("nan", 1, 9, 9)), DROPPED_NAN),
    "infinity": (xml(DOG, boxed(1, 1, "inf", 9)), DROPPED_NAN),
    "1e400": (xml(DOG, boxed(1, 1, "1e400", 9)), DROPPED_NAN),
    "all of these at once": (
        xml(boxed(50, 60, 11, 11), FAR, boxed("nan", 1, 9, 9), FLAT, DOG),
        f"{SWAPPED} {DROPPED_NAN} {DROPPED_EMPTY.replace('1', '2')}",
    ),
    "no objects": (xml(), ""),
    "fractions of a pixel": (xml(boxed(1.5, 2.25, 30.75, 40.5)), ""),
    "a part with a box of its own": (xml(boxed(11, 11, 50, 60, more=PART)), ""),
    "every object difficult": (xml(boxed(11, 11, 50, 60, more=DIFFICULT.format(1))), ""),
    "difficult that is no number": (xml(boxed(11, 11, 50, 60, more=DIFFICULT.format("x"))), ""),
    "the same object 500 times": (xml(*[DOG] * 500), ""),
    "an object inside an object": (xml(boxed(11, 11, 50, 60, more=DOG)), ""),
    "declared as Latin-1, with an accent": (
        f'<?xml version="1.0" encoding="iso-8859-1"?>{xml(DOG, "<source>é</source>")}'.encode("latin-1"),
        "",
    ),
    "UTF-8 with a byte order mark": (b"\xef\xbb\xbf" + WHOLE.encode(), ""),
    "UTF-16": (('<?xml version="1.0" encoding="utf-16"?>' + WHOLE).encode("utf-16"), ""),
    "a size that is not the image's": (xml("<size><width>7</width><height>0</height></size>", DOG), ""),
    "<!DOCTYPE in a comment": (xml("<!-- <!DOCTYPE x> -->", DOG), ""),
    "100,000 elements that nobody knows": (xml(DOG, "<x/>" * 100_000), ""),
    "100,000 elements inside each other": (xml(DOG, "<x>" * 100_000 + "</x>" * 100_000), ""),
}
LISTS: dict[str, object] = {
    "empty": ("", "'train'"),
    "blank lines": ("\n \n\n", "'train'"),
    "an image twice and one that is not there": (f"{STEM}\n{STEM}\nghost\n", "'ghost'"),
    "not UTF-8": ("caf\xe9\n".encode("latin-1"), "train.txt"),
    "zeros": (bytes(100), "train.txt"),
    "../../t0": ("../../t0\n", "'../../t0'"),
    "validation images in it": (f"{STEM}\n2012_10001\n2012_10002\n2012_20000\n", "1.image 2012_20000"),
    "fewer images than a batch": (f"{STEM}\n2012_10001\n", "batch_size"),
}
GOOD_LISTS: dict[str, object] = {
    "an image twice": "\n".join(f"2012_1000{n}" for n in (0, 0, 1, 2, 3)),
    "of one class, with a byte order mark": "\ufeff2012_10000 1\r\n2012_10001 -1\r\n2012_10002  1\r\n2012_10003 1",
}
MISSING: dict[str, object] = {
    f"Annotations/{STEM}.xml": f"'{STEM}' {STEM}.xml",
    "ImageSets/Main/train.txt": "train.txt",
    "JPEGImages": "JPEGImages",
    "Annotations": "Annotations",
    "ImageSets": "ImageSets/Main",
    ".": "data",
}


@pytest.mark.parametrize(("content", "says"), rows(INVALID, ("an entity bomb (10^10 letters)", "an empty corner")))
def test_invalid(command_line: CommandLine, content: str | bytes, says: str) -> None:
    command_line.copy("voc")
    write(XML, content)
    command_line.fails(f"{XML.name} {says}", *FIT, CLASSES)


@pytest.mark.parametrize(("content", "says"), rows(REPAIRED, ("all of these at once",)))
def test_repaired(command_line: CommandLine, content: str | bytes, says: str) -> None:
    command_line.copy("voc")
    write(XML, content)
    command_line.succeeds(f"{XML.name} {says}" if says else "", *FIT, CLASSES)


@pytest.mark.parametrize(("content", "says"), rows(LISTS, ("not UTF-8",)))
def test_list(command_line: CommandLine, content: str | bytes, says: str) -> None:
    command_line.copy("voc")
    write(LIST, content)
    command_line.fails(says, *FIT)


@pytest.mark.parametrize("content", rows(GOOD_LISTS))
def test_good_list(command_line: CommandLine, content: str) -> None:
    command_line.copy("voc")
    write(LIST, content)
    command_line.succeeds("", *FIT)


def without_objects() -> None:
    """No annotation has an object."""
    for path in XML.parent.iterdir():
        path.write_text(xml())


def folder_as_xml() -> None:
    """A folder has the annotation's name."""
    XML.unlink()
    XML.mkdir()


@pytest.mark.parametrize(
    ("spoil", "says"),
    rows({"no object": (without_objects, "Annotations"), "a folder as annotation": (folder_as_xml, XML.name)}),
)
def test_annotations(command_line: CommandLine, spoil: Callable[[], None], says: str) -> None:
    command_line.copy("voc")
    spoil()
    command_line.fails(says, *FIT)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "says"), MISSING.items())
def test_missing(command_line: CommandLine, name: str, says: str) -> None:
    command_line.copy("voc")
    path = Path("data", name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    command_line.fails(says, *FIT)
