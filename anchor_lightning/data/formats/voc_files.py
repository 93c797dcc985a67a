"""Files of Pascal VOC: archives that stay in their folder, XML without entities, and the counts of the full sets."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from anchor_lightning.errors import UserError
from anchor_lightning.messages import warn


def fetch_voc(parent: Path, year: int, test: bool) -> None:
    """Downloads a year's archive (2007 to 2012, or 2007's `test`) into a folder, if not there, and unpacks `VOCdevkit`.

    Raises:
        UserError: There is no such year, it cannot be fetched or unpacked, or has another md5 than the published one.
    """
    from torchvision.datasets.utils import download_url  # seconds, for which only a download has to wait
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    source = DATASET_YEAR_DICT.get(f"{year}-test" if test else str(year))
    if source is None:
        raise UserError(f"VOC {year} cannot be downloaded; there are 2007 to 2012.", argument="years")
    try:
        download_url(source["url"], str(parent), source["filename"], source["md5"])
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision's for another checksum
        raise UserError(
            f"{source['url']} could not be fetched to {parent}, or is damaged ({error}). Try again, or put "
            f"{source['filename']} (md5 {source['md5']}) there yourself.",
            argument="download",
        ) from None
    unpack(parent / source["filename"], parent)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive; all members are checked before the first is written.

    Raises:
        UserError: The archive is damaged, or a member or link leads outside of the folder; names both.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in (members := tar.getmembers()):
                tarfile.data_filter(member, str(folder))
            tar.extractall(folder, members, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{archive}: cannot be unpacked to {folder} ({error}). Remove it, and try again.") from None


def parse_voc_xml(file: Path) -> Element:
    """The root element of an annotation file.

    Raises:
        UserError: The file is missing, is no XML, or declares a document type, whose entities could fill all memory.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from None

    def reject(*_: object) -> None:
        raise UserError(f"{file}: declares a document type or entities, which is not allowed. Remove the declaration.")

    tree, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    # Called before anything of the declaration counts, whatever the file's encoding.
    parser.StartDoctypeDeclHandler = reject
    try:
        parser.Parse(data, True)
    except UserError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise UserError(f"{file}: is no XML ({error}). Restore or remove the file.") from None
    root = tree.close()
    if root.tag != "annotation":
        raise UserError(f"{file}: the root element is <{root.tag}>, not <annotation>. Is it a VOC annotation?")
    return root


def text_of(element: Element, field: str) -> str:
    """The text of a field below an element, "" without it."""
    return (element.findtext(field) or "").strip()


def is_difficult(obj: Element) -> bool:
    """Whether an <object> is marked difficult."""
    return text_of(obj, "difficult") == "1"


def corners(file: Path, obj: Element, zero_based: bool) -> list[float]:
    """Continuous, 0-based corners, in the file's order; of VOC's 1-based inclusive pixels equal ones stay so.

    Args:
        file: The annotation, for messages.
        obj: An <object>.
        zero_based: Whether its corners are continuous and 0-based already.

    Raises:
        UserError: It has no <bndbox>, or a corner is no number.
    """
    if obj.find("bndbox") is None:
        has = " but a <robndbox>; rotated boxes are not read" if obj.find("robndbox") is not None else ""
        raise UserError(f"{file}: an object {text_of(obj, 'name')!r} lacks <bndbox>{has}. Add the box or take it out.")
    values = []
    for field in ("xmin", "ymin", "xmax", "ymax"):
        text = text_of(obj, f"bndbox/{field}")
        try:
            values.append(float(text))
        except ValueError:
            raise UserError(
                f"{file}: <bndbox><{field}> of an object {text_of(obj, 'name')!r} is {text!r}, no number. Correct it."
            ) from None
    if zero_based:
        return values
    first, second = np.array(values).reshape(2, 2)
    return [*(first - (first < second)).tolist(), *(second - (second < first)).tolist()]


class SplitCounts(NamedTuple):
    """Images, and objects not marked difficult and so marked (None where not published), of one list of a year."""

    images: int
    plain: int
    difficult: int | None

    def __str__(self) -> str:
        difficult = "" if self.difficult is None else f" + {self.difficult:,} difficult"
        return f"{self.images:,} images, {self.plain:,} objects{difficult}"


# By the year's folder and the list; the challenge publishes the objects without the difficult ones.
PUBLISHED: Final[dict[tuple[str, str], SplitCounts]] = {
    ("VOC2007", "train"): SplitCounts(2_501, 6_301, None),
    ("VOC2007", "val"): SplitCounts(2_510, 6_307, None),
    ("VOC2007", "trainval"): SplitCounts(5_011, 12_608, 3_054),
    ("VOC2007", "test"): SplitCounts(4_952, 12_032, 2_944),
    ("VOC2012", "train"): SplitCounts(5_717, 13_609, None),
    ("VOC2012", "val"): SplitCounts(5_823, 13_841, None),
    ("VOC2012", "trainval"): SplitCounts(11_540, 27_450, 4_111),
}


def compare_with_published(list_file: Path, found: SplitCounts) -> None:
    """Warns, on one process, of a list of a devkit's year whose counts are not the published ones, if there are any."""
    year, name = list_file.parents[2].name, list_file.stem
    published = PUBLISHED.get((year, name))
    if published is None:
        return
    if published.difficult is None:
        found = found._replace(difficult=None)
    if found != published:
        warn(
            f"{list_file}: {found}, but the full {year} {name} has {published}. Numbers measured on it are not those "
            "of the benchmark: say so beside them, or restore the set."
        )
