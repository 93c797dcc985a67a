"""Sets with YOLO's labels, well-formed and malformed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from anchor_lightning.data import YOLODataModule
from anchor_lightning.data.formats.yolo import label_path_of
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import write_image, write_text


def put(root: Path, name: str, label: str | None, split: str = "train") -> Path:
    """An image of 60 x 40 pixels, and its label file unless the label is None."""
    path = write_image(root / "images" / split / f"{name}.png")
    if label is not None:
        write_text(root / "labels" / split / f"{name}.txt", label)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "a", "1 0.5 0.5 0.5 0.25\n\n0 0.25 0.25 0.5 0.5\n")
    put(tmp_path, "b", "")
    put(tmp_path, "c", None)
    put(tmp_path, "d", "0 0.1 0.2 0.5 0.2 0.3 0.6", split="val")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [dog, cat]\n")
    return tmp_path


def test_by_hand(root: Path) -> None:
    module = YOLODataModule(root=str(root))
    module.setup("fit")
    a, b, c = module.records("train")
    assert module.class_names == ["dog", "cat"]
    # Centre (30, 20) with 30 x 10, and the upper left quarter, of 60 x 40 pixels.
    np.testing.assert_allclose(a.ground_truth.boxes_xyxy, [[15, 15, 45, 25], [0, 0, 30, 20]])
    assert a.ground_truth.labels.tolist() == [1, 0] and a.ground_truth.area.tolist() == [300, 600]
    assert (a.name, a.height, a.width) == ("a.png", 40, 60)
    assert [r.ground_truth.image_id for r in (a, b, c)] == [1, 2, 3]
    # An empty or missing file is an image without objects.
    assert len(b.ground_truth.boxes_xyxy) == len(c.ground_truth.boxes_xyxy) == 0
    (d,) = module.records("val")
    np.testing.assert_allclose(d.ground_truth.boxes_xyxy, [[6, 8, 30, 24]])  # the outline's box
    assert module.records("test") is module.records("val")
    np.testing.assert_allclose(module.train_box_shapes().numpy(), [[208, 104], [208, 208]])


@pytest.mark.parametrize("train", ["images/train", "[images/train]", "train.txt", "./images/train", "../images/train"])
def test_a_split_is_a_folder_a_list_of_folders_or_a_list_of_images(root: Path, train: str) -> None:
    (root / "train.txt").write_text("./images/train/a.png\nimages/train/b.png\n\n" + str(root / "images/train/c.png"))
    (root / "data.yaml").write_text(f"path: .\ntrain: {train}\nval: images/val\nnames: {{1: cat, 0: 7}}\n")
    for module in (YOLODataModule(root=str(root)), YOLODataModule(data_yaml=str(root / "data.yaml"))):
        assert [record.name for record in module.records("train")] == ["a.png", "b.png", "c.png"]
        assert len(module.train_box_shapes()) == 2
        assert module.class_names == ["7", "cat"]


def test_several_folders_and_a_path_elsewhere(root: Path, tmp_path: Path) -> None:
    put(root, "e", "0 0.5 0.5 0.1 0.1", split="more")
    text = f"path: {root}\ntrain: [images/train, images/more]\nval: images/val\ntest: no/such\nnames: [a, b]\n"
    file = write_text(tmp_path / "elsewhere" / "set.yaml", text)
    module = YOLODataModule(data_yaml=str(file))
    assert [record.name for record in module.records("train")] == ["a.png", "b.png", "c.png", "e.png"]
    assert module.split_name("test") == "val", "a test set that is not at hand does not hinder"


def test_without_a_data_yaml(root: Path) -> None:
    (root / "data.yaml").unlink()
    module = YOLODataModule(root=str(root))
    assert module.class_names == ["class 0", "class 1"] and len(module.records("train")) == 3
    (root / "labels" / "classes.txt").write_text("dog\ncat\n")
    assert YOLODataModule(root=str(root)).class_names == ["dog", "cat"]
    assert YOLODataModule(root=str(root), class_names=["x", "y"]).class_names == ["x", "y"]
    shutil.move(root / "images" / "train", root / "train" / "images")
    shutil.move(root / "labels" / "train", root / "train" / "labels")
    assert len(YOLODataModule(root=str(root)).train_box_shapes()) == 2


def test_labelled_images_outside_of_the_splits_are_said(root: Path) -> None:
    (root / "data.yaml").unlink()
    put(root, "e", "0 0.5 0.5 0.1 0.1", split="more")
    put(root, "f", None, split="more")
    module = YOLODataModule(root=str(root), class_names=["dog", "cat"])
    with pytest.warns(UserWarning, match=r"Left out 1 labelled images outside of the splits; the first: .*e\.png"):
        assert len(module.records("train")) == 3


def test_boxes_are_cleaned(root: Path) -> None:
    put(root, "a", "0 0.05 0.5 0.2 0.5\n0 0.5 0.5 0 0.5\n")
    with pytest.warns(UserWarning, match="1 dropped, no area.*1 clipped"):
        boxes = YOLODataModule(root=str(root)).records("train")[0].ground_truth.boxes_xyxy
    np.testing.assert_allclose(boxes, [[0, 10, 9, 30]])


def test_an_image_that_cannot_be_read(root: Path) -> None:
    (root / "images" / "train" / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b\.png"):
        YOLODataModule(root=str(root)).records("train")
    with pytest.warns(UserWarning, match=r"Left out 1 images.*b\.png"):
        records = YOLODataModule(root=str(root), skip_bad_images=True).records("train")
    assert [record.name for record in records] == ["a.png", "c.png"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="root: is not given"):
        YOLODataModule()
    with pytest.raises(UserError, match="no split 'train'"):
        YOLODataModule(root=str(tmp_path), class_names=["a"]).records("train")
    with pytest.raises(UserError, match="no labels found"):
        _ = YOLODataModule(root=str(tmp_path)).class_names


def test_a_data_yaml_without_a_folder_is_named(root: Path) -> None:
    file = write_text(root / "data.yaml", "train: images/train\nval: images/train\ntest: none.txt\nnames: [dog, cat]\n")
    write_text(root / "none.txt", "")
    with pytest.raises(UserError, match=rf"images of 'val' of {file} are also"):
        YOLODataModule(data_yaml=str(file)).setup("fit")
    with pytest.raises(UserError, match=rf"'test' of {file} has no images"):
        YOLODataModule(data_yaml=str(file)).setup("predict")


def test_the_last_folder_images_counts() -> None:
    assert label_path_of(Path("/images/set/images/train/a.b.jpg")) == Path("/images/set/labels/train/a.b.txt")
    assert label_path_of(Path("flat/a.jpg")) == Path("flat/a.txt")


def test_an_image_whose_name_is_not_utf8(root: Path) -> None:
    for file in (root / "images" / "train" / "a.png", root / "labels" / "train" / "a.txt"):
        file.rename(file.with_name(os.fsdecode(b"caf\xe9") + file.suffix))
    module = YOLODataModule(root=str(root), batch_size=3, image_size=64, num_workers=0, augment=False)
    (batch,) = module.train_dataloader()
    assert len(batch.images) == 3 and int(batch.mask.sum()) == 2
