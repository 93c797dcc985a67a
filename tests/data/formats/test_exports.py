"""Sets as labelling tools export them: found by their folder alone, with the boxes where they were drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchor_lightning.data.formats.detect import detect_data
from anchor_lightning.errors import UserError
from tests.helpers.annotation_exports import (
    BOX,
    CLASSES,
    HEIGHT,
    WIDTH,
    YOLO_LINE,
    coco,
    cvat_coco,
    cvat_voc,
    cvat_yolo,
    darknet_voc,
    label_studio,
    label_studio_yolo,
    labelimg_voc,
    labelimg_yolo,
    opened,
    plain_voc,
    pylabel,
    roboflow_coco,
    roboflow_darknet,
    roboflow_voc,
    roboflow_yolo,
    xml,
)
from tests.helpers.tiny_data import write_image, write_text

WITH_SPLITS = (roboflow_voc, roboflow_coco, roboflow_yolo, roboflow_darknet)
WHOLE = (
    cvat_voc,
    cvat_yolo,
    cvat_coco,
    label_studio,
    label_studio_yolo,
    pylabel,
    labelimg_voc,
    labelimg_yolo,
    darknet_voc,
    plain_voc,
)


@pytest.mark.parametrize("make", WITH_SPLITS, ids=lambda make: make.__name__)
def test_exports_with_splits(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(root := tmp_path / "my set [v1]")
    module = opened(root)
    module.setup("fit")
    assert [len(module.records(split)) for split in ("train", "val", "test")] == [5, 2, 1]
    assert sorted(module.class_names) == sorted(CLASSES)
    for split in ("train", "val", "test"):
        for record in module.records(split):
            np.testing.assert_allclose(record.ground_truth.boxes_xyxy[0], BOX)
            assert record.ground_truth.labels[0] == module.class_names.index("cat")


@pytest.mark.parametrize("make", WHOLE, ids=lambda make: make.__name__)
def test_exports_without_splits_are_divided_by_a_seed(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    module = opened(Path("set"))  # relative, as on a command line
    module.setup("fit")
    train, val = module.records("train"), module.records("val")
    assert len(train) == 4 and len(val) == 1 and module.records("test") is val
    assert not {r.path for r in train} & {r.path for r in val}
    again = opened(Path("set"), seed=7)  # the training's seed moves no image
    assert [r.path for r in again.records("val")] == [r.path for r in val]
    drawn = {opened(Path("set"), split_seed=seed).records("val")[0].path for seed in range(8)}
    assert len(drawn) > 1
    assert len(opened(Path("set"), val_share=0).records("train")) == 5
    index = module.class_names.index("cat")
    for record in [*train, *val]:
        np.testing.assert_allclose(record.ground_truth.boxes_xyxy[0], BOX)
        assert record.ground_truth.labels[0] == index
    assert len({r.ground_truth.image_id for r in [*train, *val]}) == 5


@pytest.mark.parametrize("make", [label_studio, labelimg_voc, labelimg_yolo], ids=lambda make: make.__name__)
def test_hidden_files_and_copies_are_passed_over(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")
        (copies := file.parent / ".ipynb_checkpoints").mkdir(exist_ok=True)
        (copies / file.name).write_bytes(file.read_bytes())
    assert len(opened(tmp_path, val_share=0).records("train")) == 5


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    labelimg_yolo(tmp_path / "elsewhere")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "set")
    write_text(tmp_path / "set" / "classes.txt", "dog\ncat\n")
    assert len(opened(tmp_path / "set", val_share=0).records("train")) == 5


@pytest.mark.parametrize("make", [labelimg_yolo, labelimg_voc], ids=lambda make: make.__name__)
def test_two_images_with_one_label_file_are_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    first = sorted(file for file in tmp_path.iterdir() if file.suffix in (".jpg", ".JPG"))[0]
    write_image(first.with_suffix(".png"))
    module = opened(tmp_path)
    if make is labelimg_voc:  # <filename> says which one is meant
        assert first in [record.path for split in ("train", "val") for record in module.records(split)]
        write_text(first.with_suffix(".xml"), xml())
        module = opened(tmp_path)
    with pytest.raises(UserError, match=r"\.png"):
        module.records("train")


def test_what_was_read_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelimg_yolo(tmp_path)
    write_text(tmp_path / "1.txt", "")
    (tmp_path / "2.txt").unlink()
    write_text(tmp_path / "other.txt", YOLO_LINE)
    write_text(tmp_path / "3.txt", f"{YOLO_LINE}\n0 0.5 0.5 0 0.2")
    with caplog.at_level("INFO"), pytest.warns(UserWarning) as warned:
        opened(tmp_path, val_share=0).records("train")
    assert "5 images, 3 with boxes, 2 without (1 have no label file); 3 boxes; 2 classes: dog, cat." in caplog.text
    said = "\n".join(str(w.message) for w in warned)
    assert "1 label files without an image" in said and "other.txt" in said
    assert "1 dropped, no area in the image" in said


@pytest.mark.parametrize("make", [roboflow_yolo, roboflow_coco, labelimg_yolo], ids=lambda make: make.__name__)
def test_a_training_set_without_a_box_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    for file in tmp_path.rglob("*.txt"):
        if file.name != "classes.txt":
            write_text(file, "")
    for file in tmp_path.rglob("*.json"):
        write_text(file, json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    with pytest.raises(UserError, match="not one box: there is nothing to learn from"):
        opened(tmp_path).setup("fit")


def test_a_folder_of_labels_with_another_name_is_said(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path)
    for split in ("train", "valid", "test"):
        (tmp_path / split / "labels").rename(tmp_path / split / "Labels")
    with pytest.raises(UserError, match=r"train0\.jpg are looked for in .*train.labels.train0\.txt"):
        opened(tmp_path).setup("fit")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("make", [labelimg_yolo, labelimg_voc, label_studio], ids=lambda make: make.__name__)
def test_boxes_lie_on_the_pixels_that_the_labelling_tool_showed(
    tmp_path: Path, make: Callable[[Path], None], orientation: int
) -> None:
    """The images are stored turned, and shown as 60 x 40 by their EXIF orientation, with a white box on black."""
    make(tmp_path)
    shown = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    shown[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    turn = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # by quarters, against the clock, from shown to stored
    exif = Image.Exif()
    exif[274] = orientation
    for file in tmp_path.rglob("*"):
        if file.suffix.lower() == ".jpg":
            Image.fromarray(np.rot90(shown, turn)).save(file, quality=95, exif=exif)
    module = opened(tmp_path, val_share=0)
    record = module.records("train")[0]
    image = module._make_dataset(module.records("train"), training=False).load(0)
    if make is label_studio and orientation == 3:  # as stored: its size does not say whether it was turned
        image = image[::-1, ::-1]
    assert image.shape == (record.height, record.width, 3) == shown.shape
    x1, y1, x2, y2 = record.ground_truth.boxes_xyxy[0].astype(int)
    inside = image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
    assert inside.min() > 200 and (image > 128).mean() == pytest.approx((x2 - x1) * (y2 - y1) / 2400, abs=0.05)


def test_voc_boxes_of_an_image_that_was_labelled_as_stored(tmp_path: Path) -> None:
    labelimg_voc(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    for file in tmp_path.glob("*.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(file, exif=exif)
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        write_text(file.with_suffix(".xml"), xml(more=size))
    record = opened(tmp_path).records("train")[0]
    assert (record.height, record.width, record.orientation) == (HEIGHT, WIDTH, 1)


def test_sizes_that_the_image_contradicts_are_said(tmp_path: Path) -> None:
    labelimg_voc(tmp_path)
    for file in tmp_path.glob("*.xml"):
        write_text(file, xml(more="<size><width>120</width><height>80</height></size>"))
    with pytest.warns(UserWarning, match="5 annotations state another <size>"):
        opened(tmp_path, val_share=0).records("train")


def test_coordinates_of_vocs_own_kind_count_from_one(tmp_path: Path) -> None:
    for i in range(5):
        write_image(tmp_path / f"{i}.jpg")
        write_text(tmp_path / f"{i}.xml", xml(box=(13, 9, 42, 28)).replace(">0<", ">1<"))
    for record in opened(tmp_path, val_share=0).records("train"):
        np.testing.assert_allclose(record.ground_truth.boxes_xyxy, [BOX, (0, 0, 9, 9)])


@pytest.mark.parametrize("make", [labelimg_voc, label_studio], ids=lambda make: make.__name__)
def test_shares_where_pixels_are_meant_are_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    for file in tmp_path.glob("*.xml"):
        write_text(file, xml(box=(0.2, 0.2, 0.7, 0.7)).replace(">9<", ">0.9<"))
    if (file := tmp_path / "result.json").exists():
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            annotation["bbox"] = [0.2, 0.2, 0.5, 0.5]
        write_text(file, json.dumps(content))
    with pytest.raises(UserError, match="look like shares"):
        opened(tmp_path).records("train")


def test_corners_instead_of_sides_in_coco_are_warned_of(tmp_path: Path) -> None:
    label_studio(tmp_path)
    content = json.loads((tmp_path / "result.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [30, 8, 58, 28]
    write_text(tmp_path / "result.json", json.dumps(content))
    with pytest.warns(UserWarning, match="are they corners"):
        opened(tmp_path, val_share=0).records("train")


def test_paths_of_another_machine_in_a_data_yaml(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path)
    for given in ("/content/set/train/images", r"C:\Users\me\set\train\images", "train\\images"):
        text = f"path: /content/drive/set\ntrain: {given}\nval: valid/images\nnames: [dog, cat]\n"
        write_text(tmp_path / "data.yaml", text)
        assert len(opened(tmp_path).records("train")) == 5


def test_a_coco_folder_with_the_lists_of_the_test_images(tmp_path: Path) -> None:
    names = [write_image(tmp_path / "images" / f"{i}.jpg").name for i in range(5)]
    for file in ("instances_train2017", "image_info_test2017", "image_info_test-dev2017"):
        write_text(tmp_path / "annotations" / f"{file}.json", coco(names))
    module = opened(tmp_path, val_share=0)
    assert len(module.records("train")) == 5 and "test_annotations" not in detect_data(tmp_path)[1]
    (tmp_path / "annotations" / "image_info_test2017.json").unlink()
    assert detect_data(tmp_path)[1]["test_annotations"] == "annotations/image_info_test-dev2017.json"


def test_cocos_folder_as_ultralytics_unpacks_it(tmp_path: Path) -> None:
    """The only COCO file is that of validation; the boxes of training are YOLO's."""
    for split, count in (("train2017", 5), ("val2017", 2)):
        names = [write_image(tmp_path / "images" / split / f"{split}{i}.jpg").name for i in range(count)]
        for name in names:
            write_text(tmp_path / "labels" / split / f"{Path(name).stem}.txt", YOLO_LINE)
    write_image(tmp_path / "images" / "test2017" / "a.jpg")  # has no labels
    write_text(tmp_path / "annotations" / "instances_val2017.json", coco(names))
    module = opened(tmp_path)
    module.setup("fit")
    assert module.records("test") is module.records("val")
    assert [len(module.records(split)) for split in ("train", "val")] == [5, 2]
    assert module.records("train")[0].path.parent.name == "train2017"
    (tmp_path / "images" / "train2017").rename(tmp_path / "elsewhere")
    assert detect_data(tmp_path)[0] == "COCODataModule", "without images of training there is the COCO file alone"


def test_a_validation_file_that_is_given_alone_is_divided(tmp_path: Path) -> None:
    names = [write_image(tmp_path / "val2017" / f"{i}.jpg").name for i in range(5)]
    file = write_text(tmp_path / "annotations" / "instances_val2017.json", coco(names))
    for given in (file, tmp_path):
        module = opened(given)
        module.setup("fit")
        assert [len(module.records(split)) for split in ("train", "val")] == [4, 1]
        (whole := opened(given, val_share=0)).setup("validate")
        assert len(whole.records("val")) == 5
    with pytest.raises(UserError, match=r"5 images of 'val' .* are also in the training split"):
        opened(file, val_annotations="annotations/instances_val2017.json", val_images="val2017").setup("fit")


def test_a_folder_without_a_known_set_says_what_was_looked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"looked for VOC's \.xml .*COCO's \.json .*YOLO's \.txt"):
        detect_data(tmp_path)
