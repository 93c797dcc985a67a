"""VOC's annotations, lists and folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.helpers.bad_input import ARGS, CLIPPED, DROPPED_EMPTY, DROPPED_NAN, SWAPPED, CommandLine, cases, write

FIT = ("fit", *ARGS["voc"])
STEM: Final = "2012_10000"
XML: Final = Path("data/Annotations", f"{STEM}.xml")
LIST: Final = Path("data/ImageSets/Main/train.txt")
CLASSES: Final = '--data.class_names=["cat","dog"]'
"""Given, so that the first annotation alone counts."""
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
    "cut by its last byte": (WHOLE[:-1], "xml"),
    "random bytes": (bytes(range(256)), "xml"),
    "another root": ("<html><body>404</body></html>", "<html>"),
    "an entity bomb (10^10 letters)": (BOMB, "document.type"),
    "an entity bomb in UTF-16": (BOMB.replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"), "document.type"),
    "an entity that names a file": (OUTSIDE_FILE, "document.type"),
    "not UTF-8, no encoding declared": (xml(boxed(1, 1, 9, 9, name="chat é")).encode("latin-1"), "xml"),
    "an encoding that nobody knows": ('<?xml version="1.0" encoding="klingon"?>' + WHOLE, "xml"),
    "an object without name": (xml(DOG.replace("<name>dog</name>", "")), "class ''"),
    "an object without box": (xml("<object><name>dog</name></object>"), "lacks.<bndbox>"),
    "a corner that is a word": (xml(boxed(1, "two", 9, 9)), "<bndbox><ymin> 'two'"),
    "an unknown class": (xml(boxed(1, 1, 9, 9, name="unicorn")), "'unicorn' class_names"),
}
REPAIRED: dict[str, object] = {
    "a box that leaves the image": (xml(boxed(11, 11, 900, 900)), CLIPPED),
    "infinity": (xml(DOG, boxed(1, 1, "1e400", 9)), DROPPED_NAN),
    "broken boxes": (
        xml(boxed(50, 60, 11, 11), FAR, boxed("nan", 1, 9, 9), FLAT, DOG),
        f"{SWAPPED} {DROPPED_NAN} {DROPPED_EMPTY.replace('1', '2')}",
    ),
    "no objects": (xml(), ""),
    "a part with a box of its own": (xml(boxed(11, 11, 50, 60, more=PART)), ""),
    "every object difficult": (xml(boxed(11, 11, 50, 60, more="<difficult>1</difficult>")), ""),
    "difficult that is no number": (xml(boxed(11, 11, 50, 60, more="<difficult>x</difficult>")), ""),
    "declared as Latin-1, with an accent": (
        f'<?xml version="1.0" encoding="iso-8859-1"?>{xml(DOG, "<source>é</source>")}'.encode("latin-1"),
        "",
    ),
    "UTF-8 with a byte order mark": (b"\xef\xbb\xbf" + WHOLE.encode(), ""),
    "UTF-16": (('<?xml version="1.0" encoding="utf-16"?>' + WHOLE).encode("utf-16"), ""),
    "<!DOCTYPE in a comment": (xml("<!-- <!DOCTYPE x> -->", DOG), ""),
    "100,000 elements that nobody knows": (xml(DOG, "<x/>" * 100_000), ""),
    "100,000 elements inside each other": (xml(DOG, "<x>" * 100_000 + "</x>" * 100_000), ""),
}
LISTS: dict[str, tuple[str | bytes, str]] = {
    "blank lines": ("\n \n\n", "train_split 'train'"),
    "not UTF-8": ("caf\xe9\n".encode("latin-1"), "train.txt"),
    "../../t0": (f"{STEM}\n../../t0\n", "train.txt '../../t0'"),
    "validation images in it": (f"{STEM}\n2012_10001\n2012_10002\n2012_20000\n", "1.image 2012_20000"),
    "fewer images than a batch": (f"{STEM}\n2012_10001\n", "batch_size"),
}
GOOD_LISTS = {
    "of one class, with an image twice and a byte order mark": (
        "\ufeff2012_10000 1\r\n2012_10000 1\r\n2012_10001 -1\r\n2012_10002  1\r\n2012_10003 1"
    )
}


def without_objects() -> None:
    """No annotation has an object."""
    for path in XML.parent.iterdir():
        path.write_text(xml())


SPOILT: dict[str, object] = {
    **{f"a list: {name}": (partial(write, LIST, text), says) for name, (text, says) in LISTS.items()},
    "no object": (without_objects, "Annotations"),
    "a folder as annotation": (lambda: (XML.unlink(), XML.mkdir()), XML.name),
    "no annotation": (XML.unlink, f"'{STEM}' {STEM}.xml"),
    "no list": (lambda: [LIST.with_stem(n).unlink() for n in ("train", "trainval")], r"train\.txt there.are:.val"),
    "no images": (lambda: shutil.rmtree("data/JPEGImages"), "JPEGImages images.of.its.own"),
    "nothing": (lambda: shutil.rmtree("data"), r"root no.folder.data:.correct.it$"),
}


@cases("content, says", INVALID, ("an entity bomb (10^10 letters)",), reads=True)
def test_invalid(command_line: CommandLine, content: str | bytes, says: str) -> None:
    command_line.copy("voc")
    write(XML, content)
    command_line.fails(f"{XML.name} {says}", *FIT, CLASSES)


@cases("content, says", REPAIRED, ("broken boxes",), reads=True)
def test_repaired(command_line: CommandLine, content: str | bytes, says: str) -> None:
    command_line.copy("voc")
    write(XML, content)
    command_line.succeeds(f"{XML.name} {says}" if says else "", *FIT, CLASSES)


@cases("spoil, says", SPOILT, reads=True)
def test_spoilt(command_line: CommandLine, spoil: Callable[[], object], says: str) -> None:
    command_line.copy("voc")
    spoil()
    command_line.fails(says, *FIT)


@cases("text", GOOD_LISTS, reads=True)
def test_good_list(command_line: CommandLine, text: str) -> None:
    command_line.copy("voc")
    write(LIST, text)
    command_line.succeeds("", *FIT)
