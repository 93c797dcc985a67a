"""A folder that does not exist, or holds a set of another kind: the advice fits what was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anchor_lightning.data import (
    BrainwashDataModule,
    COCODataModule,
    DetectionDataModule,
    VOCDataModule,
    YOLODataModule,
)
from anchor_lightning.errors import UserError
from tests.helpers.made_data import make_brainwash, make_coco, make_voc, make_yolo

KINDS: dict[type[DetectionDataModule], Callable[[Path], Path]] = {
    BrainwashDataModule: make_brainwash,
    COCODataModule: make_coco,
    VOCDataModule: make_voc,
    YOLODataModule: make_yolo,
}

pytestmark = pytest.mark.usefixtures("elsewhere")


def said(kind: type[DetectionDataModule], root: Path | str, **options: object) -> str:
    with pytest.raises(UserError) as error:
        kind(root=str(root), **options).setup("fit")
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_does_not_exist(kind: type[DetectionDataModule]) -> None:
    assert said(kind, "no/such") == "root: there is no folder no/such: correct it"
    Path("file.json").write_text("{}")
    assert said(kind, "file.json") == "root: file.json is a file: give it as --data file.json"


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_of_another_kind(kind: type[DetectionDataModule]) -> None:
    for other, make in KINDS.items():
        if other is not kind:
            root = make(Path(other.__name__))
            text = f"root: {root} is no set of {kind.__name__} but of {other.__name__}: give it as --data {root}."
            assert said(kind, root) == text


def test_a_download_is_advised_where_voc_itself_is_meant() -> None:
    missing = "root: there is no folder data/VOCdevkit: correct it, or set download to true to fetch VOC to it"
    assert said(VOCDataModule, "data/VOCdevkit") == missing
    assert "download" not in said(COCODataModule, "data/VOCdevkit")
    Path("photos").mkdir()
    text = said(VOCDataModule, "photos")
    assert text.startswith("root: photos holds no set that is known: .xml files and images") and "download" not in text
    Path("devkit/VOC2012").mkdir(parents=True)
    text = said(VOCDataModule, "devkit", years=[2007])
    assert text.endswith(
        "VOC2007 lacks Annotations, JPEGImages, ImageSets/Main. Correct root or years, or set download "
        "to true to fetch VOC."
    )
