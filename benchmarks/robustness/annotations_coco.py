"""COCO's JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.robustness.harness import Case
from benchmarks.robustness.made import write

Content = dict[str, Any]
FILE = "annotations/instances_train2017.json"


def edited(data: Path, edit: Callable[[Content], object]) -> None:
    """The training annotations after an edit; what it returns replaces the content, unless that is None."""
    file = data / FILE
    content = json.loads(file.read_text())
    result = edit(content)
    file.write_text(json.dumps(content if result is None else result))


def as_text(data: Path, content: str | bytes) -> None:
    """The training annotations as another text."""
    write(data / FILE, content)


def first(field: str, **values: object) -> Callable[[Content], None]:
    """Sets values of the first entry of a list."""
    return lambda content: content[field][0].update(values)


def lacking(field: str, key: str) -> Callable[[Content], None]:
    """Takes a key of the first entry of a list away."""
    return lambda content: content[field][0].pop(key) and None


def cases() -> list[Case]:
    """Texts that are no JSON, entries that cannot be, boxes that are repaired."""
    group, huge = "COCO annotations", 10**400
    texts: dict[str, tuple[str | bytes, str]] = {
        "an empty file": ("", "is no JSON"),
        "cut in the middle": ('{"images": [{"id": 1, "file_na', "is no JSON"),
        "an HTML page": ("<html></html>", "is no JSON"),
        "not UTF-8": (b'{"images": "caf\xe9"}', "is no JSON"),
        "zeros": (bytes(100), "is no JSON"),
        "a list": ("[]", "lacks the list 'images'"),
        "a number": ("7", "lacks the list 'images'"),
        "null": ("null", "lacks the list 'images'"),
        "100,000 brackets": ("[" * 100_000, "is no JSON"),
        "a number of 10,000 digits": ('{"images": [' + "9" * 10_000 + "]}", "is no JSON"),
    }
    result = [
        Case(group, what, "coco", partial(as_text, content=text), says=f"instances_train2017.json: {says}")
        for what, (text, says) in texts.items()
    ]
    refused: dict[str, tuple[Callable[[Content], object], str]] = {
        "no 'images'": (lambda c: c.pop("images") and None, "lacks the list 'images'"),
        "no 'annotations'": (lambda c: c.pop("annotations") and None, "holds no 'annotations'"),
        "no 'categories'": (lambda c: c.pop("categories") and None, "lacks the list 'categories'"),
        "'annotations' that are an object": (lambda c: c.update(annotations={}), "lacks the list 'annotations'"),
        "no category": (lambda c: c["categories"].clear(), "'categories' is empty"),
        "no image": (lambda c: c.update(images=[], annotations=[]), "has no images"),
        "a category id twice": (first("categories", id=17), "has an id twice"),
        "a category id that is a word": (first("categories", id="car"), "'categories'"),
        "a category id that is infinite": (first("categories", id=float("inf")), "'categories'"),
        "a category id of 400 digits": (first("categories", id=huge), "categor"),
        "a category name twice": (first("categories", name="cat"), "'cat' comes 2 times"),
        "a category without name": (lacking("categories", "name"), "'categories'"),
        "a category that is null": (lambda c: c["categories"].append(None), "'categories'"),
        "other categories than the validation's": (first("categories", name="bus"), "categories are not those"),
        "an image without id": (lacking("images", "id"), r"images\[0\]"),
        "an image id 0": (first("images", id=0), r"images\[0\]"),
        "an image id that is text": (first("images", id="1"), r"images\[0\]"),
        "an image id of 400 digits": (first("images", id=huge), r"images\[0\]"),
        "an image id twice": (lambda c: c["images"][1].update(id=1), "same id"),
        "an image that is a number": (lambda c: c["images"].append(5), r"images\[4\]"),
        "an image without file_name": (lacking("images", "file_name"), r"images\[0\]"),
        "a file_name that is a list": (first("images", file_name=["a"]), r"images\[0\]"),
        "a file_name that is not there": (first("images", file_name="ghost.jpg"), "ghost.jpg: no such image"),
        "an empty file_name": (first("images", file_name=""), r"images\[0\]|no such image|cannot be read"),
        "a file_name with a zero byte": (first("images", file_name="a\0b.jpg"), "no such image"),
        "a file_name with half a letter": (first("images", file_name="\ud800.jpg"), "no such image"),
        "a file_name of 5,000 letters": (first("images", file_name="x" * 5000), "no such image"),
        "an annotation of no image": (first("annotations", image_id=999), "image_id 999"),
        "an annotation without image_id": (lacking("annotations", "image_id"), r"annotations\[0\]"),
        "an image_id that is a list": (first("annotations", image_id=[1]), r"annotations\[0\]"),
        "an unknown category_id": (first("annotations", category_id=5), "unknown category_id 5"),
        "a category_id that is missing": (lacking("annotations", "category_id"), "unknown category_id None"),
        "a category_id that is a list": (first("annotations", category_id=[3]), "category_id"),
        "no bbox": (lacking("annotations", "bbox"), r"annotations\[0\]"),
        "a bbox of three numbers": (first("annotations", bbox=[1, 2, 3]), r"annotations\[0\]"),
        "a bbox of words": (first("annotations", bbox=["a", "b", "c", "d"]), r"annotations\[0\]"),
        "a bbox that is the text 1234": (first("annotations", bbox="1234"), r"annotations\[0\]"),
        "a bbox with a number of 400 digits": (first("annotations", bbox=[0, 0, huge, 9]), r"annotations\[0\]"),
        "a bbox with null": (first("annotations", bbox=[0, 0, None, 9]), r"annotations\[0\]"),
        "an area that is a word": (first("annotations", area="large"), "area"),
        "an area that is a list": (first("annotations", area=[1, 2]), "area"),
        "an area of 400 digits": (first("annotations", area=huge), "area"),
        "an annotation that is text": (lambda c: c["annotations"].append("box"), r"annotations\[8\]"),
    }
    result += [
        Case(group, what, "coco", partial(edited, edit=edit), says=f"{says}") for what, (edit, says) in refused.items()
    ]
    late = {
        "a size that is not the image's": first("images", height=50),
        "turned by 90 degrees": first("images", height=128, width=96),
    }
    result += [
        Case(
            group,
            what,
            "coco",
            partial(edited, edit=edit),
            says=r"000000000001\.jpg: the stored image is 128 x 96",
            early=False,
        )
        for what, edit in late.items()
    ]
    repaired: dict[str, tuple[Callable[[Content], object], str]] = {
        "a negative width": (first("annotations", bbox=[60, 60, -30, -30]), "1 corners swapped"),
        "a height of zero": (first("annotations", bbox=[5, 5, 30, 0]), "1 dropped, no area"),
        "a box outside": (first("annotations", bbox=[5000, 5, 30, 30]), "1 dropped, no area"),
        "a box that leaves the image": (first("annotations", bbox=[60, 60, 300, 300]), "1 clipped"),
        "NaN in a bbox": (first("annotations", bbox=[float("nan"), 1, 2, 3]), "1 dropped, not a number"),
        "Infinity in a bbox": (first("annotations", bbox=[0, 0, float("inf"), 3]), "1 dropped, not a number"),
        "no annotation at all": (lambda c: c["annotations"].clear(), ""),
        "an image without boxes": (lambda c: c.update(annotations=c["annotations"][2:]), ""),
        "a crowd": (first("annotations", iscrowd=1, segmentation={"counts": [1], "size": [1, 1]}), ""),
        "an annotation id twice": (lambda c: c["annotations"][1].update(id=c["annotations"][0]["id"]), ""),
        "an annotation without id and area": (
            lambda c: [c["annotations"][0].pop(k) for k in ("id", "area")] and None,
            "",
        ),
        "no height and width": (lambda c: [c["images"][0].pop(k) for k in ("height", "width")] and None, ""),
        "height and width null": (first("images", height=None, width=None), ""),
        "a size of 30 digits": (first("images", height=10**30), ""),
        "keys that nobody knows": (lambda c: c.update(info=[1], extra={"a": 1}), ""),
    }
    result += [
        Case(group, what, "coco", partial(edited, edit=edit), "goes on", says)
        for what, (edit, says) in repaired.items()
    ]
    missing = [
        Case(group, "no annotation file", "coco", lambda d: (d / FILE).unlink(), says="instances_train2017.json"),
        Case(group, "an annotation file that is a folder", "coco", _folder, says="instances_train2017.json"),
        Case(
            group,
            "no folder of images",
            "coco",
            lambda d: (d / "train2017").rename(d / "x") and None,
            says="train2017: no such folder",
        ),
        Case(group, "a root that is missing", "coco", lambda d: ["--data.root=nowhere"], says="nowhere"),
    ]
    return result + missing


def _folder(data: Path) -> None:
    (data / FILE).unlink()
    (data / FILE).mkdir()
