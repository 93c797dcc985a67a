"""Counts of the full Pascal VOC sets, and the warning where a set differs from them."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn


class SplitCounts(NamedTuple):
    """Images and objects of one list of a year, as its annotation files say.

    Args:
        images: Images of the list.
        plain: Objects that are not marked difficult.
        difficult: Objects that are, or None where no number was published.
    """

    images: int
    plain: int
    difficult: int | None

    def __str__(self) -> str:
        difficult = "" if self.difficult is None else f" + {self.difficult:,} difficult"
        return f"{self.images:,} images, {self.plain:,} objects{difficult}"


# By the year's folder and the list. The challenge publishes the objects without the difficult ones; those of the years'
# whole sets are known too (15,662 objects in 2007's trainval, 14,976 in its test, 31,561 in 2012's trainval).
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
    """Warns, on one process, of a list of a devkit's year whose counts are not those of the full set.

    A warning and no error: a subset is a fine thing to train on, as long as nobody takes its numbers for those of the
    benchmark. Lists without published counts are passed over.

    Args:
        list_file: A list in `ImageSets/Main` of a year's folder.
        found: Its counts, taken before any broken box is dropped.
    """
    year, name = list_file.parents[2].name, list_file.stem
    published = PUBLISHED.get((year, name))
    if published is None:
        return
    if published.difficult is None:
        found = found._replace(difficult=None)
    if found != published:
        rank_zero_warn(
            f"{list_file}: {found}, but the full {year} {name} has {published}. Numbers measured on it are not those "
            "of the benchmark: say so beside them, or restore the set."
        )
