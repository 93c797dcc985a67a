"""What the four formats' files may hold beside what tests/data/formats shows, and one such case of each to its end."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.helpers.bad_input import ALIAS_BOMB, ARGS, CommandLine, rows, write

SWAPPED: Final = "1.corners"
NOT_A_NUMBER: Final = "1.dropped[^0-9]*number"
XML, LIST = Path("data/Annotations/2012_10000.xml"), Path("data/ImageSets/Main/train.txt")
JSON: Final = Path("data/annotations/instances_train2017.json")
IDL: Final = Path("data/brainwash_train.idl")
LABEL, YAML = Path("data/labels/train/00000.txt"), Path("data/data.yaml")
Content = dict[str, Any]
Cases = dict[str, tuple[Any, str]]
"""Name -> what a change takes, and what must be said."""


def of(kind: str, change: Callable[[Any], object], cases: Cases, *options: str, file: str = "") -> Mapping[str, object]:
    """The cases as parameters: arguments, kind of data, what is done to it, and what is said (of the file)."""
    return {
        f"{kind} {name}": ((*ARGS[kind], *options), kind, partial(change, value), f"{file} {says}" if says else "")
        for name, (value, says) in cases.items()
    }


def folder_instead(path: Path) -> None:
    """A folder has the file's name."""
    path.unlink()
    path.mkdir()


def remove(path: str) -> None:
    """Takes a file or folder away."""
    shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


# VOC
def boxed(*box: object, name: str = "dog", more: str = "") -> str:
    """An `<object>` with the corners as given."""
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def xml(*objects: str) -> str:
    """An annotation."""
    return f"<annotation>{''.join(objects)}</annotation>"


def declared(encoding: str, text: str) -> bytes:
    """XML in the encoding that it declares."""
    return f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding)


DOG, FAR, FLAT = boxed(11, 11, 50, 60), boxed(5000, 5000, 6000, 6000), boxed(9, 9, 9, 30)
WHOLE, NAN = xml(DOG), boxed("nan", 1, 9, 9)
PART = boxed(1, 1, 5, 5, name="head").replace("object", "part")
BOMB: Final = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]><annotation><object><name>&j;</name></object></annotation>"
)
INVALID_XML: Cases = {
    "zeros": (bytes(500), "xml"),
    "an HTML page with a document type": ("<!DOCTYPE html><html></html>", "document.type"),
    "another root": ("<annotations></annotations>", "<annotations>"),
    "an entity bomb (10^10 letters)": (BOMB, "entit"),
    "an entity that is not declared": (xml("<object><name>&dog;</name></object>"), "xml"),
    "not UTF-8, no encoding declared": (xml(boxed(1, 1, 9, 9, name="chat é")).encode("latin-1"), "xml"),
    "an encoding that nobody knows": ('<?xml version="1.0" encoding="klingon"?>' + WHOLE, "xml"),
    "an object without name": (xml(DOG.replace("<name>dog</name>", "")), "class ''"),
    "an object without box": (xml("<object><name>dog</name></object>"), "xmin"),
    "a box without ymax": (xml(DOG.replace("<ymax>60</ymax>", "")), "ymax"),
    "an empty corner": (xml(boxed(1, "", 9, 9)), "ymin"),
}
REPAIRS = f"{SWAPPED} {NOT_A_NUMBER} 2.dropped[^0-9]*area"
ALL_AT_ONCE = xml(boxed(50, 60, 11, 11), FAR, NAN, FLAT, DOG)
GOOD_XML: Cases = {
    "all repairs at once": (ALL_AT_ONCE, REPAIRS),
    "no objects": (xml(), ""),
    "fractions of a pixel": (xml(boxed(1.5, 2.25, 30.75, 40.5)), ""),
    "a part with a box of its own": (xml(boxed(11, 11, 50, 60, more=PART)), ""),
    "every object difficult": (xml(boxed(11, 11, 50, 60, more="<difficult>1</difficult>")), ""),
    "difficult that is no number": (xml(boxed(11, 11, 50, 60, more="<difficult>x</difficult>")), ""),
    "the same object 500 times": (xml(*[DOG] * 500), ""),
    "an object inside an object": (xml(boxed(11, 11, 50, 60, more=DOG)), ""),
    "declared as Latin-1, with an accent": (declared("iso-8859-1", xml(DOG, "<source>é</source>")), ""),
    "UTF-8 with a byte order mark": (b"\xef\xbb\xbf" + WHOLE.encode(), ""),
    "UTF-16": (declared("utf-16", WHOLE), ""),
    "100,000 elements that nobody knows": (xml(DOG, "<x/>" * 100_000), ""),
    "100,000 elements inside each other": (xml(DOG, "<x>" * 100_000 + "</x>" * 100_000), ""),
}
INVALID_LIST: Cases = {
    "a list of blank lines": ("\n \n\n", "'train'"),
    "a list that is not UTF-8": ("caf\xe9\n".encode("latin-1"), "train.txt"),
    "a list of zeros": (bytes(100), "train.txt"),
    "a list with ../../t0": ("../../t0\n", "'../../t0'"),
    "a list with validation images": ("2012_10000\n2012_10001\n2012_10002\n2012_20000\n", "1.image 2012_20000"),
    "a list of fewer images than a batch": ("2012_10000\n2012_10001\n", "batch_size"),
}
GOOD_LIST: Cases = {
    "an image twice": ("\n".join(f"2012_1000{n}" for n in (0, 0, 1, 2, 3)), ""),
    "of one class, with a mark": ("\ufeff2012_10000 1\r\n2012_10001 -1\r\n2012_10002  1\r\n2012_10003 1", ""),
}


def without_objects(folder: Path) -> None:
    """No annotation has an object."""
    for path in folder.iterdir():
        path.write_text(xml())


# COCO
def edit_json(edit: Callable[[Content], object]) -> None:
    """The training annotations after an edit."""
    content = json.loads(JSON.read_text())
    edit(content)
    JSON.write_text(json.dumps(content))


def first(field: str, **values: object) -> Callable[[Content], object]:
    """Sets values of the first entry of a list."""
    return lambda content: content[field][0].update(values)


def without(field: str, *keys: str) -> Callable[[Content], object]:
    """Takes keys of the first entry of a list away; without keys, the list."""
    return lambda content: [content[field][0].pop(key) for key in keys] if keys else content.pop(field)


def appended(field: str, value: object) -> Callable[[Content], object]:
    """One more entry of a list."""
    return lambda content: content[field].append(value)


image, box, category = (partial(first, field) for field in ("images", "annotations", "categories"))
INVALID_TEXT: Cases = {
    "zeros": (bytes(100), "json"),
    "null": ("null", "'images'"),
    "100,000 brackets": ("[" * 100_000, "json"),
    "a number of 10,000 digits": ('{"images": [' + "9" * 10_000 + "]}", "json"),
}
INVALID_JSON: Cases = {
    "no 'annotations'": (without("annotations"), "'annotations'"),
    "no 'categories'": (without("categories"), "'categories'"),
    "no image": (lambda c: c.update(images=[], annotations=[]), "images"),
    "a category id that is a word": (category(id="car"), "'categories'"),
    "a category id of 400 digits": (category(id=10**400), "categor"),
    "a category name twice": (category(name="cat"), "'cat' 2"),
    "an image without id": (without("images", "id"), r"images\[0\]"),
    "an image id that is text": (image(id="1"), r"images\[0\]"),
    "a file_name that is a list": (image(file_name=["a"]), r"images\[0\]"),
    "a file_name with a zero byte": (image(file_name="a\0b.jpg"), "b.jpg"),
    "a file_name with half a letter": (image(file_name="\ud800.jpg"), r"\.jpg"),
    "a file_name of 5,000 letters": (image(file_name="x" * 5000), "xxx"),
    "an annotation without image_id": (without("annotations", "image_id"), r"annotations\[0\]"),
    "an image_id that is a list": (box(image_id=[1]), r"annotations\[0\]"),
    "a category_id that is missing": (without("annotations", "category_id"), "category_id.None"),
    "a bbox with a number of 400 digits": (box(bbox=[0, 0, 10**400, 9]), r"annotations\[0\]"),
    "a bbox with null": (box(bbox=[0, 0, None, 9]), r"annotations\[0\]"),
    "an annotation that is text": (appended("annotations", "box"), r"annotations\[8\]"),
}
GOOD_JSON: Cases = {
    "NaN in a bbox": (box(bbox=[math.nan, 1, 2, 3]), f"{JSON.name} {NOT_A_NUMBER}"),
    "no annotation at all": (lambda c: c["annotations"].clear(), ""),
    "an image without boxes": (lambda c: c.update(annotations=c["annotations"][2:]), ""),
    "an annotation without id and area": (without("annotations", "id", "area"), ""),
    "height and width null": (image(height=None, width=None), ""),
    "keys that nobody knows": (lambda c: c.update(info=[1], extra={"a": 1}), ""),
}


# Brainwash
def first_line(line: str | bytes) -> None:
    """Another first line of the training list."""
    rest = IDL.read_bytes().partition(b"\n")[2]
    IDL.write_bytes((line.encode() if isinstance(line, str) else line) + b"\n" + rest)


HEADS: Final = '"images_train/00000000_128x96.png"'
INVALID_IDL: Cases = {
    "a bracket that is not closed": (f"{HEADS}: (1, 2, 3, 4;", "line.1"),
    "an empty name": ('"": (1, 2, 3, 4);', "line.1"),
    "text behind the boxes": (f"{HEADS}: (1, 2, 3, 4) and more;", "line.1"),
    "random bytes": (bytes(set(range(1, 256)) - {10, 13}), "line.1"),
    "a name with a zero byte": (b'"a\x00b.png": (1, 2, 3, 4);', "b.png"),
    "a name that is not UTF-8": (b'"caf\xe9.png";', "caf.*png"),
}
GOOD_IDL: Cases = {
    "reversed corners": (f"{HEADS}: (90, 80, 10, 20);", f"{IDL.name} {SWAPPED}"),
    "no space, no semicolon": (f"{HEADS}:(10,10,40,40),(20,20,60,60)", ""),
    "blank lines and a carriage return": (f"\n  \n{HEADS}: (10, 10, 40, 40);\r", ""),
    "5,000 heads": (f"{HEADS}: " + ", ".join(["(10, 10, 40, 40)"] * 5000) + ";", ""),
}

# YOLO
PLAIN, NAMES, VAL = "train: images/train\nval: images/val\n", "names: [dog, cat]\n", "val: images/val\n"
INVALID_LABEL: Cases = {
    "pixels": ("0 64 48 20 20", ":1 pixels"),
    "a class 1e300": ("1e300 0.5 0.5 0.2 0.2", ":1"),
    "commas": ("0,0.5,0.5,0.2,0.2", ":1"),
    "an outline of odd length": ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", ":1"),
    "a label that is not UTF-8": (b"0 0.5 0.5 0.2 0.2 caf\xe9", LABEL.name),
}
GOOD_LABEL: Cases = {
    "an empty label file": ("", ""),
    "a byte order mark and carriage returns": (b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\r\n\r\n", ""),
    "a value rounded to 1.000001": ("0 0.5 0.5 1.000001 0.2", ""),
}
INVALID_YAML: Cases = {
    "an empty data.yaml": ("", "data.yaml 'train'"),
    "not UTF-8": (b"names: [caf\xe9]", "data.yaml"),
    "5,000 brackets": (PLAIN + "x: " + "[" * 5000, "data.yaml"),
    "names that are a number": (PLAIN + "names: 3\n", "data.yaml 'names'"),
    "a name twice": (PLAIN + "names: [dog, dog]\n", "data.yaml 'dog' 2"),
    "names that are an alias bomb": (PLAIN + ALIAS_BOMB + "names: *i\n", "data.yaml 'names'"),
    "train that is an alias bomb": (ALIAS_BOMB + NAMES + VAL + "train: *i\n", "data.yaml train"),
    "train that is a number": ("train: 5\n" + VAL + NAMES, "5"),
    "a folder without images": ("train: labels\n" + VAL + NAMES, "has.no.images"),
    "train that is a .yaml": ("train: data.yaml\n" + VAL + NAMES, "data.yaml folder"),
    "the same images twice": ("train: images/val\n" + VAL + NAMES, "4.images val"),
}


def ghost_in_list(listed: str) -> None:
    """A list of images."""
    write(YAML, "train: train.txt\n" + VAL + NAMES)
    write("data/train.txt", listed)


CLASSES: Final = '--data.class_names=["cat","dog"]'  # given, so that the first annotation alone counts
MISSING = ("JPEGImages", "Annotations", "ImageSets")
INVALID: dict[str, object] = {
    **of("voc", partial(write, XML), INVALID_XML, CLASSES, file=XML.name),
    **of("voc", partial(write, LIST), INVALID_LIST),
    **of("voc", without_objects, {"no object": (XML.parent, "Annotations")}),
    **of("voc", folder_instead, {"a folder as annotation": (XML, XML.name)}),
    **of("voc", remove, {f"no {name}": (f"data/{name}", name) for name in MISSING}),
    **of("voc", remove, {"no annotation": (XML, f"'{XML.stem}' {XML.name}"), "no list": (LIST, "train.txt")}),
    **of("coco", partial(write, JSON), INVALID_TEXT, file=JSON.name),
    **of("coco", edit_json, INVALID_JSON),
    **of("coco", folder_instead, {"a folder as annotations": (JSON, JSON.name)}),
    **of("coco", remove, {"no images": ("data/train2017", "train2017"), "no root": ("data", "data")}),
    **of("brainwash", first_line, INVALID_IDL),
    **of("brainwash", partial(write, IDL), {"an empty list": ("", "has.no.images")}),
    **of("brainwash", partial(write, IDL), {"UTF-16": (f"{HEADS};".encode("utf-16"), "line.1")}, file=IDL.name),
    **of("brainwash", folder_instead, {"a folder as list": (IDL, IDL.name)}),
    **of("yolo", partial(write, LABEL), INVALID_LABEL, file=LABEL.name),
    **of("yolo", partial(write, YAML), INVALID_YAML),
    **of("yolo", ghost_in_list, {"a list that names what is not there": ("images/train/ghost.jpg\n", "ghost.jpg")}),
}
GOOD: dict[str, object] = {
    **of("voc", partial(write, XML), GOOD_XML, CLASSES, file=XML.name),
    **of("voc", partial(write, LIST), GOOD_LIST),
    **of("coco", edit_json, GOOD_JSON),
    **of("brainwash", first_line, GOOD_IDL),
    **of("yolo", partial(write, LABEL), GOOD_LABEL),
    **of("yolo", remove, {"no label": (LABEL, "")}),
}
FAST = (
    *("voc an entity bomb (10^10 letters)", "voc an empty corner", "voc a list that is not UTF-8", "yolo pixels"),
    *("coco a bbox with a number of 400 digits", "brainwash a name with a zero byte"),
    "yolo names that are an alias bomb",
)
FAST_GOOD = ("voc all repairs at once", "coco NaN in a bbox", "brainwash reversed corners")


Change = Callable[[], object]


@pytest.mark.parametrize(("args", "kind", "change", "says"), rows(INVALID, FAST))
def test_invalid(command_line: CommandLine, args: tuple[str, ...], kind: str, change: Change, says: str) -> None:
    command_line.copy(kind)
    change()
    command_line.fails(says, "fit", *args)


@pytest.mark.parametrize(("args", "kind", "change", "says"), rows(GOOD, FAST_GOOD))
def test_good(command_line: CommandLine, args: tuple[str, ...], kind: str, change: Change, says: str) -> None:
    command_line.copy(kind)
    change()
    command_line.succeeds(says, "fit", *args)


@pytest.mark.slow
@pytest.mark.parametrize("size", [{"height": 50}, {"height": 128, "width": 96}], ids=["other", "turned"])
def test_other_size(command_line: CommandLine, size: dict[str, object]) -> None:
    command_line.copy("coco")
    edit_json(image(**size))
    command_line.fails("000000000001.jpg 128.x.96", "fit", *ARGS["coco"], early=False)
