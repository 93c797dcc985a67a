"""COCO-JSON sets, well-formed, malformed and real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchor_lightning.data.formats.coco import COCODataModule
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import write_image, write_text

HUGE = 10**400
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def content(first_id: int = 1) -> dict[str, Any]:
    """Two images, the second without boxes; a box of each category, one a crowd."""
    images = [{"id": first_id + i, "file_name": f"{first_id + i}.jpg", "height": 40, "width": 60} for i in range(2)]
    annotations = [
        {"id": 1, "image_id": first_id, "category_id": 7, "bbox": [10, 5, 20, 10], "area": 120.5, "iscrowd": 0},
        {"id": 2, "image_id": first_id, "category_id": 3, "bbox": [0.5, 0, 30, 40], "iscrowd": 1},
    ]
    return {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}


def without_annotations(first_id: int) -> dict[str, Any]:
    return {key: value for key, value in content(first_id).items() if key != "annotations"}


def write(root: Path, name: str, data: dict[str, Any], file: str = "", folder: str = "") -> None:
    write_text(root / (file or f"annotations/instances_{name}2017.json"), json.dumps(data))
    for image in data.get("images", []):
        if isinstance(image, dict) and image.get("file_name"):
            write_image(root / (folder or f"{name}2017") / image["file_name"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "train", content())
    write(tmp_path, "val", content(11))
    return tmp_path


def test_a_set_in_the_layout_of_2017(root: Path) -> None:
    module = COCODataModule(root=str(root))
    module.setup("fit")
    first, second = module.records("train")
    assert module.class_names == ["cat", "dog"]
    assert module.category_ids == [3, 7]
    np.testing.assert_array_equal(first.ground_truth.boxes_xyxy, [[10, 5, 30, 15], [0.5, 0, 30.5, 40]])
    assert first.ground_truth.labels.tolist() == [1, 0]
    assert first.ground_truth.ignore.tolist() == [False, True]
    assert first.ground_truth.area.tolist() == [120.5, 1200]
    assert (first.name, first.ground_truth.image_id, first.height, first.width) == ("1.jpg", 1, 40, 60)
    assert second.ground_truth.boxes_xyxy.shape == (0, 4)
    assert module.records("test") is module.records("val")


def test_a_set_with_files_of_its_own(tmp_path: Path) -> None:
    options = {"root": str(tmp_path)}
    for first_id, name in ((1, "train"), (5, "val"), (9, "test")):
        write(tmp_path, name, content(first_id), f"a/{name}.json", "pictures")
        options |= {f"{name}_annotations": f"a/{name}.json", f"{name}_images": "pictures"}
    module = COCODataModule(**options)
    module.setup("fit")
    module.setup("test")
    assert [module.records(split)[0].ground_truth.image_id for split in ("train", "val", "test")] == [1, 5, 9]


def test_a_set_with_validation_only_can_be_validated(tmp_path: Path) -> None:
    write(tmp_path, "val", content())
    module = COCODataModule(root=str(tmp_path))
    assert module.num_classes == 2
    module.setup("validate")
    module.setup("test")
    with pytest.raises(UserError, match=r"instances_train2017\.json: "):
        module.setup("fit")


def test_a_file_without_annotations_is_for_prediction_only(tmp_path: Path) -> None:
    write(tmp_path, "test", without_annotations(1), "annotations/image_info_test-dev2017.json", "test2017")
    options: dict[str, Any] = {"root": str(tmp_path), "test_annotations": "annotations/image_info_test-dev2017.json"}
    module = COCODataModule(**options, test_images="test2017", num_workers=0, image_size=32)
    assert (module.class_names, module.category_ids) == (["cat", "dog"], [3, 7])
    module.setup("predict")
    assert [i for batch in module.predict_dataloader() for i in batch.image_ids.tolist()] == [1, 2]
    message = r"test_annotations: .*image_info_test-dev2017\.json .*measure against"
    for loaded in (module, COCODataModule(**options)):
        with pytest.raises(UserError, match=message):
            loaded.setup("test")


@pytest.mark.parametrize(("role", "purpose"), [("train", "train on"), ("val", "measure against")])
def test_training_needs_annotations(root: Path, role: str, purpose: str) -> None:
    write(root, role, without_annotations(1 if role == "train" else 11))
    with pytest.raises(UserError, match=rf"{role}_annotations: .*instances_{role}2017\.json .*{purpose}"):
        COCODataModule(root=str(root)).setup("fit")
    # Those of a test split are not asked for.
    write(root, role, content(1 if role == "train" else 11))
    write(root, "test", without_annotations(21), "test.json", "test2017")
    COCODataModule(root=str(root), test_annotations="test.json").setup("fit")


def test_broken_boxes_are_repaired_or_dropped_and_reported(root: Path) -> None:
    data = content()
    for bbox in ([10, 10, 5, 0], [50, 30, 40, 40], [30, 15, -20, -10], [float("nan"), 0, 1, 1]):
        data["annotations"].append({"image_id": 2, "category_id": 7, "bbox": bbox})
    write(root, "train", data)
    with pytest.warns(UserWarning, match=r"1 dropped, not a number.*1 corners.*1 dropped, no area.*1 clipped"):
        ground_truth = COCODataModule(root=str(root)).records("train")[1].ground_truth
    np.testing.assert_array_equal(ground_truth.boxes_xyxy, [[50, 30, 60, 40], [10, 5, 30, 15]])
    assert ground_truth.area.tolist() == [1600, 200]


def change(field: str, **values: Any) -> dict[str, Any]:
    """The good content, the first entry of a list changed; a value of None takes the key out."""
    data = content()
    first = data[field][0] = data[field][0] | values
    for name in [name for name, value in values.items() if value is None]:
        del first[name]
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "lacks the list 'images'"),
        (content() | {"annotations": None}, "lacks the list 'annotations'"),
        (content() | {"images": [3]}, r"images\[0\] lacks"),
        (change("images", file_name=None), r"images\[0\] lacks"),
        (change("images", id=0), r"images\[0\] has id 0"),
        (change("images", id=2**63), r"images\[0\] has id"),
        (change("images", file_name=""), r"images\[0\] has id 1 and file_name ''"),
        (change("images", id=2), "the same id"),
        (content() | {"images": content()["images"][1:]}, "refer to image_id 1"),
        (change("annotations", bbox=None), r"annotations\[0\] lacks"),
        (change("annotations", bbox=[1, 2]), r"annotations\[0\] lacks"),
        (change("annotations", bbox="1234"), r"annotations\[0\] lacks"),
        (change("annotations", bbox=[0, 0, HUGE, 9]), r"annotations\[0\] lacks"),
        (change("annotations", id=8, category_id=4), "annotation 8 of image 1 has the unknown category_id 4"),
        (change("annotations", category_id=[3]), r"unknown category_id \[3\]"),
        (change("annotations", area="large"), "area 'large'"),
        (change("annotations", area=[1, 2]), "area"),
        (change("annotations", area=HUGE), "area"),
        (content() | {"categories": []}, "'categories' is empty"),
        (change("categories", name=None), "an entry of 'categories' lacks"),
        (change("categories", id=float("inf")), "an entry of 'categories' lacks"),
        (content() | {"categories": CATEGORIES[:1] * 2}, "an id twice"),
    ],
)
def test_malformed_files_name_file_and_field(root: Path, data: dict[str, Any], message: str) -> None:
    write(root, "train", data)
    with pytest.raises(UserError, match=rf"instances_train2017\.json: .*{message}"):
        COCODataModule(root=str(root)).setup("fit")


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"<html>", b"\xff\xfe"])
def test_what_is_no_json_names_itself(root: Path, text: bytes) -> None:
    (root / "annotations" / "instances_train2017.json").write_bytes(text)
    with pytest.raises(UserError, match=r"instances_train2017\.json: .*(JSON|list)"):
        COCODataModule(root=str(root)).setup("fit")


def test_missing_things_are_named(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(UserError, match=r"root: .*instances_train2017\.json, .*instances_val2017\.json"):
        _ = COCODataModule(root=str(tmp_path_factory.mktemp("empty"))).class_names
    with pytest.raises(UserError, match="root: is not given"):
        _ = COCODataModule().class_names
    (root / "train2017" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"2\.jpg: no such image, but .*instances_train2017\.json"):
        COCODataModule(root=str(root)).setup("fit")
    with pytest.raises(UserError, match=r"train_images: .*nowhere"):
        COCODataModule(root=str(root), train_images="nowhere").setup("fit")


def test_splits_agree_on_categories(root: Path) -> None:
    write(root, "val", content(11) | {"categories": [*CATEGORIES, {"id": 9, "name": "bird"}]})
    with pytest.raises(UserError, match=r"instances_val2017\.json: .*categories"):
        COCODataModule(root=str(root)).setup("fit")


@pytest.mark.parametrize("height", [None, 0, 10**30, "40"])
def test_sizes_that_are_missing_or_beyond_any_image_come_from_it(root: Path, height: object) -> None:
    write(root, "train", change("images", height=height))
    record = COCODataModule(root=str(root)).records("train")[0]
    assert (record.height, record.width) == (40, 60)


def test_the_real_subset(shared_data: Path) -> None:
    module = COCODataModule(root=str(shared_data / "coco"))
    module.setup("fit")
    assert (len(module.records("train")), len(module.records("val"))) == (2150, 543)
    assert sum(len(t.labels) for t in module.ground_truth("train")) == 20688
    assert sum(len(t.labels) for t in module.ground_truth("val")) == 5187
    assert module.num_classes == 80
    assert module.category_ids[-1] == 90
    assert module.train_box_shapes().shape == (20688, 2)
