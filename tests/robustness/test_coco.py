"""COCO's JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.helpers.bad_input import ARGS, CLIPPED, DROPPED_EMPTY, DROPPED_NAN, SWAPPED, CommandLine, cases, write

FIT = ("fit", *ARGS["coco"])
FILE: Final = Path("data/annotations/instances_train2017.json")
HUGE: Final = 10**400
Edit = Callable[[dict[str, Any]], object]


def image(**values: object) -> Edit:
    """Sets values of the first image."""
    return lambda content: content["images"][0].update(values)


def box(**values: object) -> Edit:
    """Sets values of the first annotation."""
    return lambda content: content["annotations"][0].update(values)


def category(**values: object) -> Edit:
    """Sets values of the first category."""
    return lambda content: content["categories"][0].update(values)


TEXTS: dict[str, object] = {
    "cut in the middle": ('{"images": [{"id": 1, "file_na', "json"),
    "not UTF-8": (b'{"images": "caf\xe9"}', "json"),
    "a list": ("[]", "'images'"),
    "100,000 brackets": ("[" * 100_000, "json"),
    "a number of 10,000 digits": ('{"images": [' + "9" * 10_000 + "]}", "json"),
}
INVALID: dict[str, object] = {
    "no 'annotations'": (lambda c: c.pop("annotations"), "train_annotations train.on"),
    "'annotations' that are an object": (lambda c: c.update(annotations={}), "'annotations'"),
    "no category": (lambda c: c["categories"].clear(), "'categories'.is.empty"),
    "no image": (lambda c: c.update(images=[], annotations=[]), "images"),
    "a category id twice": (category(id=17), "id.twice"),
    "a category id that is a word": (category(id="car"), "'categories'"),
    "a category id that is infinite": (category(id=math.inf), "'categories'"),
    "a category name twice": (category(name="cat"), "'cat' 2"),
    "a category without name": (lambda c: c["categories"][0].pop("name"), "'categories'"),
    "a category that is null": (lambda c: c["categories"].append(None), "'categories'"),
    "other categories than the validation's": (category(name="bus"), "categories"),
    "an image without id": (lambda c: c["images"][0].pop("id"), r"images\[0\]"),
    "an image id below 0": (image(id=-1), r"images\[0\].has.id.-1"),
    "an image id 0 of no annotation": (image(id=0), "image_id.1"),
    "an image id of 400 digits": (image(id=HUGE), r"images\[0\]"),
    "an image id twice": (lambda c: c["images"][1].update(id=1), "same.id"),
    "an image that is a number": (lambda c: c["images"].append(5), r"images\[4\]"),
    "a file_name that is a list": (image(file_name=["a"]), r"images\[0\]"),
    "a file_name that is not there": (image(file_name="ghost.jpg"), f"ghost.jpg {FILE.name}"),
    "an empty file_name": (image(file_name=""), r"images\[0\] file_name.''"),
    "a file_name with a zero byte": (image(file_name="a\0b.jpg"), "b.jpg"),
    "a file_name with half a letter": (image(file_name="\ud800.jpg"), r"\.jpg"),
    "a file_name of 5,000 letters": (image(file_name="x" * 5000), "xxx"),
    "an annotation of no image": (box(image_id=999), "image_id.999"),
    "an annotation without image_id": (lambda c: c["annotations"][0].pop("image_id"), r"annotations\[0\]"),
    "an image_id that is a list": (box(image_id=[1]), r"annotations\[0\]"),
    "an unknown category_id": (box(id=8, category_id=5), "annotation.8.of.image.1 category_id.5"),
    "a category_id that is a list": (box(category_id=[3]), "category_id"),
    "a bbox of three numbers": (box(bbox=[1, 2, 3]), r"annotations\[0\]"),
    "a bbox that is the text 1234": (box(bbox="1234"), r"annotations\[0\]"),
    "a bbox with a number of 400 digits": (box(bbox=[0, 0, HUGE, 9]), r"annotations\[0\]"),
    "an area that is a word": (box(area="large"), "area.'large'"),
    "an area that is a list": (box(area=[1, 2]), "area"),
    "an area of 400 digits": (box(area=HUGE), "area"),
    "no annotation at all": (lambda c: c["annotations"].clear(), "not.one.box"),
    "an annotation that is text": (lambda c: c["annotations"].append("box"), r"annotations\[8\]"),
}
REPAIRED: dict[str, object] = {
    "a negative width": (box(bbox=[60, 60, -30, -30]), SWAPPED),
    "a height of zero": (box(bbox=[5, 5, 30, 0]), DROPPED_EMPTY),
    "a box that leaves the image": (box(bbox=[60, 60, 300, 300]), CLIPPED),
    "infinity in a bbox": (box(bbox=[0, 0, math.inf, 3]), DROPPED_NAN),
    "an image id that is text": (image(id="1"), ""),
    "a crowd": (box(iscrowd=1, segmentation={"counts": [1], "size": [1, 1]}), ""),
    "an annotation id twice": (lambda c: c["annotations"][1].update(id=c["annotations"][0]["id"]), ""),
    "an annotation without id and area": (lambda c: [c["annotations"][0].pop(k) for k in ("id", "area")], ""),
    "no height and width": (lambda c: [c["images"][0].pop(k) for k in ("height", "width")], ""),
    "keys that nobody knows": (lambda c: c.update(info=[1], extra={"a": 1}), ""),
}
SPOILT: dict[str, object] = {
    "no annotation file": (FILE.unlink, FILE.name),
    "an annotation file that is a folder": (lambda: FILE.rename("x") and FILE.mkdir(), FILE.name),
    "no folder of images": (lambda: Path("data/train2017").rename("x"), "train_images train2017"),
    "a root that is missing": (lambda: Path("data").rename("x"), "root no.folder.data:.correct.it$"),
}


def edit_file(command_line: CommandLine, edit: Edit) -> None:
    """The training annotations after an edit."""
    command_line.copy("coco")
    content = json.loads(FILE.read_text())
    edit(content)
    FILE.write_text(json.dumps(content))


@cases("text, says", TEXTS, reads=True)
def test_text(command_line: CommandLine, text: str | bytes, says: str) -> None:
    command_line.copy("coco")
    write(FILE, text)
    command_line.fails(f"{FILE.name} {says}", *FIT)


@cases("edit, says", INVALID, ("a bbox with a number of 400 digits",), reads=True)
def test_invalid(command_line: CommandLine, edit: Edit, says: str) -> None:
    edit_file(command_line, edit)
    command_line.fails(says, *FIT)


@cases("edit", {"a side": image(height=50), "turned by 90 degrees": image(height=128, width=96)}, reads=True)
def test_another_size_than_the_images(command_line: CommandLine, edit: Edit) -> None:
    edit_file(command_line, edit)
    command_line.fails("000000000001.jpg 128.x.96", *FIT, early=False)


@cases("edit, says", REPAIRED, ("infinity in a bbox",), reads=True)
def test_repaired(command_line: CommandLine, edit: Edit, says: str) -> None:
    edit_file(command_line, edit)
    command_line.succeeds(f"{FILE.name} {says}" if says else "", *FIT)


@cases("spoil, says", SPOILT, reads=True)
def test_spoilt(command_line: CommandLine, spoil: Callable[[], object], says: str) -> None:
    command_line.copy("coco")
    spoil()
    command_line.fails(says, *FIT)
