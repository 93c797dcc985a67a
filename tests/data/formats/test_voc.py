"""VOC devkits and sets in their layout, well-formed, malformed and real."""

from __future__ import annotations

import csv
import gzip
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from anchor_lightning.data import VOCDataModule, reading
from anchor_lightning.data.annotated_set import Split
from anchor_lightning.data.formats import voc
from anchor_lightning.data.formats.voc import VOC_CLASSES
from anchor_lightning.data.formats.voc_files import PUBLISHED, SplitCounts
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import write_image, write_text


def box(xmin: object, ymin: object, xmax: object, ymax: object, name: str = "dog", more: str = "") -> str:
    return (
        f"<object><name>{name}</name>{more}<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax>"
        f"<ymax>{ymax}</ymax></bndbox></object>"
    )


DOG = box(11, 6, 30, 25)


def add(folder: Path, stem: str, objects: str = DOG, suffix: str = "jpg", size: str = "") -> Path:
    """An annotation and its 60 x 40 image."""
    write_image(folder / "JPEGImages" / f"{stem}.{suffix}")
    return write_text(folder / "Annotations" / f"{stem}.xml", f"<annotation>{size}{objects}</annotation>")


def add_list(folder: Path, name: str, stems: Sequence[str]) -> Path:
    return write_text(folder / "ImageSets" / "Main" / f"{name}.txt", "".join(f"{stem}\n" for stem in stems))


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    """a, b to train, c to validate; a line that comes twice is one image."""
    for stem in "abc":
        add(tmp_path, stem)
    add_list(tmp_path, "train", "aab")
    add_list(tmp_path, "val", "c")
    return tmp_path


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    for year, name, stem in ((2007, "trainval", "000001"), (2007, "test", "000002"), (2012, "trainval", "2012_000001")):
        add(tmp_path / "VOCdevkit" / f"VOC{year}", stem)
        add_list(tmp_path / "VOCdevkit" / f"VOC{year}", name, [stem])
    return tmp_path / "VOCdevkit"


@pytest.mark.parametrize("inside", [True, False])
def test_the_devkits_splits(devkit: Path, inside: bool) -> None:
    module = VOCDataModule(root=str(devkit if inside else devkit.parent))
    module.setup("fit")
    assert [r.name for r in module.records("train")] == ["000001", "2012_000001"]
    assert [r.name for r in module.records("val")] == ["000002"]
    assert module.records("test") is module.records("val")
    assert module.class_names == list(VOC_CLASSES)
    assert module.num_classes == 20
    ids = [r.ground_truth.image_id for split in ("train", "val") for r in module.records(split)]
    assert sorted(ids) == [1, 2, 3]


def test_one_year_and_a_named_list(devkit: Path) -> None:
    module = VOCDataModule(root=str(devkit), years=[2012], train_split="trainval", val_split="2007/test")
    assert [r.name for r in module.records("train")] == ["2012_000001"]
    assert [r.name for r in module.records("val")] == ["000002"]
    assert module.records("train")[0].ground_truth.image_id != module.records("val")[0].ground_truth.image_id
    with pytest.raises(UserError, match=r"train\.txt: .*trainval"):
        VOCDataModule(root=str(devkit), years=[2012]).setup("fit")


def test_objects_as_they_come(own_set: Path) -> None:
    part = box(1, 1, 2, 2, "head").replace("object>", "part>")
    cat = box(1.5, 2.5, 60, 40, "cat", "<difficult>1</difficult>")
    add(own_set, "a", cat + box(3, 3, 9, 9, "dog", part + "<difficult>0</difficult>") + DOG)
    add(own_set, "b", "")
    first, second = VOCDataModule(root=str(own_set)).records("train")
    ground_truth = first.ground_truth
    # Continuous and 0-based, where the file's are inclusive pixels from 1.
    np.testing.assert_array_equal(ground_truth.boxes_xyxy, [[0.5, 1.5, 60, 40], [2, 2, 9, 9], [10, 5, 30, 25]])
    assert ground_truth.labels.tolist() == [0, 1, 1]
    assert ground_truth.ignore.tolist() == [True, False, False]
    assert ground_truth.area.tolist() == [59.5 * 38.5, 49, 400]
    ground_truth = second.ground_truth
    assert ground_truth.boxes_xyxy.shape == (0, 4)
    assert ground_truth.labels.shape == ground_truth.ignore.shape == ground_truth.area.shape == (0,)


def test_broken_boxes_are_repaired_or_dropped_and_reported_once(own_set: Path) -> None:
    swapped, outside, empty, absent = box(30, 25, 11, 6), box(41, 11, 90, 99), box(5, 5, 5, 9), box("nan", 1, 2, 3)
    add(own_set, "a", swapped + outside + empty + absent + box(100, 100, 200, 200) + DOG)
    with pytest.warns(UserWarning, match="Boxes of") as warned:
        ground_truth = VOCDataModule(root=str(own_set)).records("train")[0].ground_truth
    np.testing.assert_array_equal(ground_truth.boxes_xyxy, [[10, 5, 30, 25], [40, 10, 60, 40], [10, 5, 30, 25]])
    (message,) = [str(w.message) for w in warned]
    for part in ("1 dropped, not a number", "1 corners swapped", "2 dropped, no area", "1 clipped", "a.xml"):
        assert part in message


def test_the_image_knows_its_size_better_than_the_annotation(own_set: Path) -> None:
    (own_set / "JPEGImages" / "a.jpg").unlink()
    add(own_set, "a", suffix="png", size="<size><width>7</width><height>9</height></size>")
    record = VOCDataModule(root=str(own_set)).records("train")[0]
    assert (record.path.name, record.height, record.width) == ("a.png", 40, 60)


def test_class_names_are_those_found_or_given(own_set: Path) -> None:
    add(own_set, "c", box(1, 1, 9, 9, "bird"))
    assert VOCDataModule(root=str(own_set)).class_names == ["bird", "dog"]
    given_names = VOCDataModule(root=str(own_set), class_names=["dog", "bird"])
    assert given_names.records("val")[0].ground_truth.labels.tolist() == [1]


def test_what_is_missing_or_overlaps_is_named(own_set: Path) -> None:
    with pytest.raises(UserError, match="root: is not given"):
        VOCDataModule().setup("fit")
    with pytest.raises(UserError, match="years: is empty"):
        VOCDataModule(years=[])
    add_list(own_set, "test", "b")
    with pytest.raises(UserError, match=r"test_split: 1 images of 'test' .*'train'"):
        VOCDataModule(root=str(own_set)).setup("fit")


def test_a_bad_image_does_not_stop_a_set_that_skips_them(own_set: Path) -> None:
    add(own_set, "a", size="<size><width>60</width><height>40</height></size>")
    (own_set / "JPEGImages" / "a.jpg").write_bytes(b"")
    assert len(VOCDataModule(root=str(own_set), skip_bad_images=True).records("train")) == 2
    add(own_set, "a")  # without a <size> that could stand in
    (own_set / "JPEGImages" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.jpg: cannot be read"):
        VOCDataModule(root=str(own_set)).records("train")
    with pytest.warns(UserWarning, match=r"Left out 1 images that cannot be read; the first: .*a\.jpg"):
        assert len(reading.box_shapes(VOCDataModule(root=str(own_set)))[0]) == 1


def test_download_only_when_asked_to_and_only_what_is_missing(devkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(voc, "fetch_voc", lambda parent, year, test: asked.append((parent, year, test)))
    (devkit / "VOC2007" / "ImageSets" / "Main" / "test.txt").unlink()
    VOCDataModule(root=str(devkit)).prepare_data()
    assert asked == []
    VOCDataModule(root=str(devkit), download=True).prepare_data()
    assert asked == [(devkit.parent, 2007, True)]


@pytest.fixture
def full_devkit(devkit: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The made devkit, declared to be the full one: an image and a plain object in each list, one difficult in 2012."""
    for year, name in (("VOC2007", "trainval"), ("VOC2007", "test")):
        monkeypatch.setitem(PUBLISHED, (year, name), SplitCounts(1, 1, 0))
    monkeypatch.setitem(PUBLISHED, ("VOC2012", "trainval"), SplitCounts(1, 1, 1))
    monkeypatch.setitem(PUBLISHED, ("VOC2012", "train"), SplitCounts(1, 1, None))
    add(devkit / "VOC2012", "2012_000001", DOG + box(1, 1, 9, 9, more="<difficult>1</difficult>"))
    add_list(devkit / "VOC2012", "train", ["2012_000001"])
    return devkit


def count_warnings(module: VOCDataModule, *splits: Split) -> list[str]:
    """What reading the splits warns of, but for repaired boxes."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for split in splits:
            module.records(split)
    return [str(w.message) for w in warned if not str(w.message).startswith("Boxes of")]


def test_a_full_set_is_not_warned_about(full_devkit: Path) -> None:
    assert count_warnings(VOCDataModule(root=str(full_devkit)), "train", "val", "test") == []
    # The published counts of `train` are without the difficult objects.
    of_train = VOCDataModule(root=str(full_devkit), years=[2012], train_split="train")
    assert count_warnings(of_train, "train") == []
    # Objects are counted before broken ones are dropped.
    add(full_devkit / "VOC2007", "000001", box(5, 5, 5, 9))
    module = VOCDataModule(root=str(full_devkit))
    assert count_warnings(module, "train") == []
    assert len(module.records("train")[0].ground_truth.labels) == 0


def test_other_counts_than_published_are_warned_about(full_devkit: Path) -> None:
    hard = "<difficult>1</difficult>"
    for objects, said in ((DOG, "1 objects + 0 difficult"), (DOG * 2 + box(1, 1, 9, 9, "dog", hard), "2 objects + 1")):
        add(full_devkit / "VOC2012", "2012_000001", objects)
        (message,) = count_warnings(VOCDataModule(root=str(full_devkit)), "train", "val")
        assert f"trainval.txt: 1 images, {said}" in message
        assert "full VOC2012 trainval has 1 images, 1 objects + 1 difficult" in message
    add(full_devkit / "VOC2012", "2012_000001", DOG + box(1, 1, 9, 9, more=hard))
    add(full_devkit / "VOC2007", "000003")
    add_list(full_devkit / "VOC2007", "trainval", ["000001", "000003"])
    (message,) = count_warnings(VOCDataModule(root=str(full_devkit)), "train")
    assert "trainval.txt: 2 images" in message and "full VOC2007 trainval has 1 images" in message


def test_a_part_of_a_set_is_warned_about_once(
    full_devkit: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setitem(PUBLISHED, ("VOC2007", "test"), SplitCounts(4_952, 12_032, 2_944))
    module = VOCDataModule(root=str(full_devkit))
    module.setup("fit")
    module.setup("test")
    (message,) = [str(w.message) for w in recwarn if "benchmark" in str(w.message)]
    assert "test.txt: 1 images" in message and "full VOC2007 test has 4,952 images" in message


def test_lists_and_sets_of_ones_own_are_not_compared(full_devkit: Path) -> None:
    add_list(full_devkit / "VOC2012", "mine", ["2012_000001"])
    assert count_warnings(VOCDataModule(root=str(full_devkit), years=[2012], train_split="mine"), "train") == []
    # A set of the user's own may be called what it likes: here it is 2007's folder with half of its lists' images.
    add_list(full_devkit / "VOC2007", "train", ["000001"])
    assert count_warnings(VOCDataModule(root=str(full_devkit / "VOC2007"), val_split="test"), "train", "val") == []


def test_published_counts_add_up() -> None:
    for year in ("VOC2007", "VOC2012"):
        train, val, both = (PUBLISHED[year, name] for name in ("train", "val", "trainval"))
        assert (train.images + val.images, train.plain + val.plain) == (both.images, both.plain)


def test_published_counts_are_those_of_the_real_boxes(shared_data: Path) -> None:
    images: dict[str, set[str]] = {}
    plain, difficult = Counter[str](), Counter[str]()
    with gzip.open(shared_data / "voc0712_boxes.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            images.setdefault(row["split"], set()).add(row["image_id"])
            (difficult if row["difficult"] == "1" else plain)[row["split"]] += 1
    counted = {split: SplitCounts(len(ids), plain[split], difficult[split]) for split, ids in images.items()}
    known = {f"{year}_{name}".lower(): counts for (year, name), counts in PUBLISHED.items() if counts.difficult}
    assert counted == known
    assert {split: counts.plain + (counts.difficult or 0) for split, counts in known.items()} == {
        "voc2007_trainval": 15_662,
        "voc2007_test": 14_976,
        "voc2012_trainval": 31_561,
    }


@pytest.mark.filterwarnings("ignore:Boxes of")
def test_the_real_subset_of_voc_2012(shared_data: Path) -> None:
    module = VOCDataModule(root=str(shared_data / "VOCdevkit"), years=[2012])
    with pytest.warns(UserWarning, match=r"train\.txt: 2,740 images.*VOC2012 train has 5,717"):
        module.setup("fit")
    assert (len(module.records("train")), len(module.records("val"))) == (2740, 686)
    ground_truths = module.ground_truth("train") + module.ground_truth("val")
    assert sum(len(t.labels) for t in ground_truths) == 7168
    assert sum(int(t.ignore.sum()) for t in ground_truths) == 777
    assert len({t.image_id for t in ground_truths}) == 3426
    assert len({int(label) for t in ground_truths for label in t.labels}) == 19
    module.batch_size, module.num_workers = 4, 0
    assert next(iter(module.val_dataloader())).images.shape == (4, 3, 416, 416)


def test_the_real_blood_cells(shared_data: Path) -> None:
    module = VOCDataModule(root=str(shared_data / "BCCD"))
    with pytest.warns(UserWarning, match="1 dropped, no area"):
        sizes = [len(module.records(split)) for split in ("train", "val", "test")]
    assert sizes == [205, 87, 72]
    assert module.class_names == ["Platelets", "RBC", "WBC"]
    boxes = sum(len(t.labels) for split in ("train", "val", "test") for t in module.ground_truth(split))
    assert boxes == 4888 - 2


def test_overlap_that_is_allowed_is_warned_of(own_set: Path) -> None:
    module = VOCDataModule(root=str(own_set), val_split="train", allow_overlap=True)
    with pytest.warns(UserWarning, match=r"2 images of 'train' of .* are also in the training split 'train'"):
        module.setup("fit")
