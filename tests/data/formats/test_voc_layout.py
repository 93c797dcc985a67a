"""Where the images and annotations of sets with VOC's XML lie, and which of them a split has."""

from __future__ import annotations

from pathlib import Path

import pytest

from anchor_lightning.errors import UserError
from tests.helpers.annotation_exports import opened, xml
from tests.helpers.tiny_data import write_image, write_text


def put(root: Path, annotation: str, image: str | None) -> None:
    """An annotation file and its image."""
    write_text(root / annotation, xml())
    if image is not None:
        write_image(root / image)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Five images in VOC's folders, without lists."""
    for name in "abcde":
        put(tmp_path, f"Annotations/{name}.xml", f"JPEGImages/{name}.jpg")
    return tmp_path


def add_list(root: Path, name: str, lines: str) -> None:
    write_text(root / "ImageSets" / "Main" / f"{name}.txt", lines)


@pytest.mark.parametrize("name", ["default", "mine"])
def test_lists_of_classes_beside_the_only_list(listed: Path, name: str) -> None:
    add_list(listed, name, "a\nb\nc\nd\ne\n")
    for label in ("cat", "big_dog"):
        add_list(listed, f"{label}_{name}", "a 1\nb  -1\nc 0\nd -1\ne 1\n")
    assert len(opened(listed, val_share=0).records("train")) == 5


def test_lists_of_classes_alone_are_joined(listed: Path) -> None:
    """VoTT writes no others, with the images' suffix, and every image of the split in each."""
    for label in ("cat", "train"):
        add_list(listed, f"{label}_train", "a.jpg 1\nb.jpg -1\nc.jpg -1\n")
        add_list(listed, f"{label}_val", "d.jpg -1\ne.jpg 1\n")
    module = opened(listed)
    module.setup("fit")
    assert [[r.name for r in module.records(split)] for split in ("train", "val")] == [["a", "b", "c"], ["d", "e"]]


def test_a_list_without_a_class_is_never_passed_over(listed: Path) -> None:
    add_list(listed, "day", "a\nb\n")
    add_list(listed, "rainy_day", "c\nd\ne\n")
    with pytest.raises(UserError, match=r"train\.txt: no such list.*there are: day, rainy_day"):
        opened(listed).records("train")


def test_annotations_in_a_folder_that_the_images_have_not(tmp_path: Path) -> None:
    """As of the Oxford-IIIT pets, of which half have no annotation."""
    for i in range(5):
        put(tmp_path, f"annotations/xmls/cat_{i}.xml", f"images/cat_{i}.jpg")
    write_image(tmp_path / "images" / "dog_0.jpg")
    module = opened(tmp_path, val_share=0)
    with pytest.warns(UserWarning, match=r"Left out 1 images without an annotation file; the first: .*dog_0\.jpg"):
        records = module.records("train")
    assert [record.path.name for record in records] == [f"cat_{i}.jpg" for i in range(5)]


def test_images_in_folders_of_splits_and_annotations_in_one(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("val", "de"), ("test", "f")):
        for name in names:
            put(tmp_path, f"Annotations/{name}.xml", f"images/{split}/{name}.jpg")
    module = opened(tmp_path)
    module.setup("fit")
    found = ["".join(record.path.stem for record in module.records(split)) for split in ("train", "val", "test")]
    assert found == ["abc", "de", "f"]


def test_a_name_that_two_images_have_is_no_pair(tmp_path: Path) -> None:
    put(tmp_path, "annotations/xmls/a.xml", "images/cam 1/a.jpg")
    put(tmp_path, "annotations/xmls/b.xml", "images/cam 1/b.jpg")
    write_image(tmp_path / "images" / "cam 2" / "a.jpg")
    with pytest.warns(UserWarning, match=r"Left out 1 annotation files without an image; the first: .*a\.xml"):
        records = opened(tmp_path).records("train")
    assert [record.path.name for record in records] == ["b.jpg"]
    for file in (tmp_path / "images").rglob("b.jpg"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no images that .* Left out 2 annotation files .*a\.xml"):
        opened(tmp_path).records("train")


def test_annotations_outside_of_the_splits_are_said(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "valid/c", "test/d", "extra/e", "extra/f", "g"):
        put(tmp_path, f"{name}.xml", f"{name}.jpg")
    with pytest.warns(UserWarning, match=r"Left out 3 annotation files outside of the splits; the first: .*e\.xml"):
        opened(tmp_path).records("train")
    with pytest.warns(UserWarning, match=r"Left out 1 annotation files outside of the splits; the first: .*g\.xml"):
        assert len(opened(tmp_path, train_split="extra").records("train")) == 2
