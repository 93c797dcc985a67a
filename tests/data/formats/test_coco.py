"""COCO-JSON sets, well-formed, malformed and real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchor_lightning.data import COCODataModule
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import write_image, write_text

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


def test_validation_needs_annotations_and_a_test_split_does_not(root: Path) -> None:
    write(root, "test", without_annotations(21), "test.json", "test2017")
    COCODataModule(root=str(root), test_annotations="test.json").setup("fit")
    write(root, "val", without_annotations(11))
    with pytest.raises(UserError, match=r"val_annotations: .*instances_val2017\.json .*measure against"):
        COCODataModule(root=str(root)).setup("fit")


def test_broken_boxes_are_repaired_or_dropped_and_reported(root: Path) -> None:
    data = content()
    for bbox in ([10, 10, 5, 0], [50, 30, 40, 40], [30, 15, -20, -10], [float("nan"), 0, 1, 1]):
        data["annotations"].append({"image_id": 2, "category_id": 7, "bbox": bbox})
    write(root, "train", data)
    with pytest.warns(UserWarning, match=r"1 dropped, not a number.*1 corners.*1 dropped, no area.*1 clipped"):
        ground_truth = COCODataModule(root=str(root)).records("train")[1].ground_truth
    np.testing.assert_array_equal(ground_truth.boxes_xyxy, [[50, 30, 60, 40], [10, 5, 30, 15]])
    assert ground_truth.area.tolist() == [1600, 200]


@pytest.mark.parametrize("height", [None, 0, 10**30, "40"])
def test_sizes_that_are_missing_or_beyond_any_image_come_from_it(root: Path, height: object) -> None:
    data = content()
    data["images"][0]["height"] = height
    write(root, "train", data)
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
