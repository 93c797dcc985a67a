"""VOC annotations and lists."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.robustness.harness import Case
from benchmarks.robustness.made import voc_object, voc_xml, write

DOG: Final = voc_object((11, 11, 50, 60))
BOMB: Final = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]><annotation><object><name>&j;</name></object></annotation>"
)
OUTSIDE_FILE: Final = (
    '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><annotation><object><name>&f;</name></object></annotation>'
)
PART: Final = voc_object((1, 1, 5, 5), "head").replace("object", "part")


def spoilt() -> dict[str, tuple[str | bytes, str]]:
    """Annotations that are refused: name -> content of t0.xml, and what the message must name beside the file."""
    whole = voc_xml(DOG)
    return {
        "an empty annotation file": ("", "is no XML"),
        "cut in the middle": (whole[: len(whole) // 2], "is no XML"),
        "cut by its last byte": (whole[:-1], "is no XML"),
        "JSON": ("{}", "is no XML"),
        "zeros": (bytes(500), "is no XML"),
        "random bytes": (bytes(range(256)), "is no XML"),
        "an HTML page": ("<html><body>404</body></html>", "root element is <html>"),
        "an HTML page with a document type": ("<!DOCTYPE html><html></html>", "document type"),
        "another root": ("<annotations></annotations>", "root element"),
        "two roots": (whole + whole, "is no XML"),
        "an entity bomb (10^10 letters)": (BOMB, "document type or entities"),
        "an entity bomb in UTF-16": (BOMB.replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"), "entities"),
        "an entity that names a file": (OUTSIDE_FILE, "document type or entities"),
        "an entity that is not declared": (voc_xml("<object><name>&dog;</name></object>"), "is no XML"),
        "not UTF-8, no encoding declared": (voc_xml(voc_object((1, 1, 9, 9), "chat é")).encode("latin-1"), "is no XML"),
        "an encoding that nobody knows": ('<?xml version="1.0" encoding="klingon"?>' + whole, "is no XML"),
        "an object without name": (voc_xml(DOG.replace("<name>dog</name>", "")), "unknown class ''"),
        "an object without box": (voc_xml("<object><name>dog</name></object>"), "xmin"),
        "a box without ymax": (voc_xml(DOG.replace("<ymax>60</ymax>", "")), "ymax"),
        "a corner that is a word": (voc_xml(voc_object((1, "two", 9, 9))), "'two', not a number"),
        "a corner with a decimal comma": (voc_xml(voc_object((1, "2,5", 9, 9))), "'2,5', not a number"),
        "an empty corner": (voc_xml(voc_object((1, "", 9, 9))), "ymin"),
    }


def repaired() -> dict[str, tuple[str | bytes, str]]:
    """Annotations that training goes on with: name -> content of t0.xml, and what has to be reported."""
    far, latin = voc_object((5000, 5000, 6000, 6000)), '<?xml version="1.0" encoding="iso-8859-1"?>'
    return {
        "reversed corners": (voc_xml(voc_object((50, 60, 11, 11))), "1 corners swapped"),
        "a box that leaves the image": (voc_xml(voc_object((11, 11, 900, 900))), "1 clipped to the image"),
        "a box outside the image": (voc_xml(DOG, far), "1 dropped, no area in the image"),
        "negative corners": (voc_xml(voc_object((-50, -60, 30, 30))), "1 clipped to the image"),
        "a box without area": (voc_xml(DOG, voc_object((9, 9, 9, 30))), "1 dropped, no area"),
        "NaN": (voc_xml(DOG, voc_object(("nan", 1, 9, 9))), "1 dropped, not a number"),
        "infinity": (voc_xml(DOG, voc_object((1, 1, "inf", 9))), "1 dropped, not a number"),
        "1e400": (voc_xml(DOG, voc_object((1, 1, "1e400", 9))), "1 dropped, not a number"),
        "all of these at once": (
            voc_xml(voc_object((50, 60, 11, 11)), far, voc_object(("nan", 1, 9, 9)), voc_object((9, 9, 9, 30)), DOG),
            "1 dropped, not a number, 1 corners swapped, 2 dropped, no area",
        ),
        "no objects": (voc_xml(), ""),
        "fractions of a pixel": (voc_xml(voc_object((1.5, 2.25, 30.75, 40.5))), ""),
        "a part with a box of its own": (voc_xml(voc_object((11, 11, 50, 60), more=PART)), ""),
        "every object difficult": (voc_xml(voc_object((11, 11, 50, 60), more="<difficult>1</difficult>")), ""),
        "difficult that is no number": (voc_xml(voc_object((11, 11, 50, 60), more="<difficult>x</difficult>")), ""),
        "the same object 500 times": (voc_xml(*[DOG] * 500), ""),
        "an object inside an object": (voc_xml(voc_object((11, 11, 50, 60), more=DOG)), ""),
        "declared as Latin-1, with é": ((latin + voc_xml(DOG, "<source>é</source>")).encode("latin-1"), ""),
        "UTF-8 with a byte order mark": (b"\xef\xbb\xbf" + voc_xml(DOG).encode(), ""),
        "UTF-16": (('<?xml version="1.0" encoding="utf-16"?>' + voc_xml(DOG)).encode("utf-16"), ""),
        "a size that is not the image's": (voc_xml("<size><width>7</width><height>0</height></size>", DOG), ""),
        "<!DOCTYPE in a comment": (voc_xml("<!-- <!DOCTYPE x> -->", DOG), ""),
        "100,000 elements that nobody knows": (voc_xml(DOG, "<x/>" * 100_000), ""),
        "100,000 elements inside each other": (voc_xml(DOG, "<x>" * 100_000 + "</x>" * 100_000), ""),
    }


def with_xml(data: Path, content: str | bytes, *words: str) -> Sequence[str]:
    """The first training image's annotation as another text; classes are given, so that t0.xml alone counts."""
    write(data / "Annotations" / "t0.xml", content)
    return ('--data.class_names=["cat","dog"]', *words)


def with_list(data: Path, content: str | bytes) -> None:
    """Another list of training images."""
    write(data / "ImageSets" / "Main" / "train.txt", content)


def empty_annotations(data: Path, content: str) -> None:
    """All annotations as one text."""
    for path in (data / "Annotations").iterdir():
        path.write_text(content)


def without(data: Path, *names: str) -> None:
    """Takes files or folders away."""
    for name in names:
        path = data / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def cases() -> list[Case]:
    """Annotations, then lists and folders."""
    group = "VOC annotations"
    result = [
        Case(group, what, prepare=partial(with_xml, content=content), says=rf"t0\.xml.*{says}")
        for what, (content, says) in spoilt().items()
    ]
    unknown = partial(with_xml, content=voc_xml(voc_object((1, 1, 9, 9), "unicorn")))
    result.append(Case(group, "an unknown class", prepare=unknown, says="t0.xml: unknown class 'unicorn'"))
    result += [
        Case(group, what, prepare=partial(with_xml, content=content), ends="goes on", says=says)
        for what, (content, says) in repaired().items()
    ]
    spoilers: dict[str, tuple[Callable[[Path], object], str]] = {
        "no object in any file": (partial(empty_annotations, content=voc_xml()), "No <object><name>.*Annotations"),
        "an annotation that is missing": (lambda d: without(d, "Annotations/t0.xml"), "lists 't0', but .*t0.xml"),
        "an annotation that is a folder": (_folder_as_xml, "t0.xml: cannot be read"),
        "a list that is empty": (partial(with_list, content=""), "split 'train' .* has no images"),
        "a list of blank lines": (partial(with_list, content="\n \n\n"), "split 'train' .* has no images"),
        "a list that is missing": (lambda d: without(d, "ImageSets/Main/train.txt"), "train.txt: no such list"),
        "a list that names an image twice and one that is not there": (
            partial(with_list, content="t0\nt0\nghost\n"),
            "lists 'ghost'",
        ),
        "a list that is not UTF-8": (partial(with_list, content="caf\xe9\n".encode("latin-1")), "train.txt"),
        "a list of zeros": (partial(with_list, content=bytes(100)), "train.txt"),
        "a list that names ../../t0": (partial(with_list, content="../../t0\n"), "lists '../../t0'"),
        "validation images in the training list": (partial(with_list, content="t0\nt1\nt2\nv0\n"), "1 images are both"),
        "fewer images than a batch": (partial(with_list, content="t0\nt1\n"), "data.batch_size"),
        "no folder JPEGImages": (lambda d: without(d, "JPEGImages"), "JPEGImages"),
        "no folder Annotations": (lambda d: without(d, "Annotations"), "lacks Annotations|Annotations"),
        "no folder ImageSets": (lambda d: without(d, "ImageSets"), "ImageSets/Main"),
        "an empty root": (lambda d: without(d, "ImageSets", "JPEGImages", "Annotations"), "data.root = data"),
    }
    result += [Case(group, what, prepare=spoil, says=says) for what, (spoil, says) in spoilers.items()]
    twice = partial(with_list, content="t0\nt0\nt1\nt2\nt3\n")
    result.append(Case(group, "a list that names an image twice", prepare=twice, ends="goes on"))
    marked = partial(with_list, content="\ufefft0 1\r\nt1 -1\r\nt2  1\r\nt3 1")
    result.append(Case(group, "a list of one class, with a byte order mark", prepare=marked, ends="goes on"))
    return result


def _folder_as_xml(data: Path) -> Sequence[str]:
    without(data, "Annotations/t0.xml")
    (data / "Annotations" / "t0.xml").mkdir()
    return ('--data.class_names=["cat","dog"]',)
