"""What a mutation of a good file was found to break: each ends in an error that names the file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from anchor_lightning.data import BrainwashDataModule, COCODataModule, YOLODataModule
from anchor_lightning.data.images import MAX_PIXELS, image_size_of, read_image
from anchor_lightning.errors import UserError
from tests.helpers.made_data import make_brainwash, make_coco, make_yolo

HUGE = 10**400


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=[3]), r"unknown category_id \[3\]"),
        (lambda c: c["annotations"][0].update(area="large"), "area 'large'"),
        (lambda c: c["annotations"][0].update(area=[1, 2]), "area"),
        (lambda c: c["annotations"][0].update(area=HUGE), "area"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, HUGE, 9]), r"annotations\[0\]"),
        (lambda c: c["annotations"][0].update(bbox="1234"), r"annotations\[0\]"),
        (lambda c: c["categories"][0].update(id=float("inf")), "categories"),
        (lambda c: c["images"][0].update(id=2**63), r"images\[0\]"),
        (lambda c: c["images"][0].update(file_name=""), r"images\[0\]"),
        (lambda c: c["images"][0].update(file_name="x" * 5000), "no such image"),
    ],
)
def test_coco(tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    file = make_coco(tmp_path) / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"instances_train2017\.json.*{message}|{message}.*instances_train2017\.json"):
        COCODataModule(root=str(tmp_path)).records("train")


def test_coco_sides_beyond_any_image_come_from_the_file(tmp_path: Path) -> None:
    file = make_coco(tmp_path) / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["images"][0]["height"] = 10**30
    file.write_text(json.dumps(content))
    record = COCODataModule(root=str(tmp_path)).records("train")[0]
    assert (record.height, record.width) == (96, 128)


def test_brainwash_names_that_no_file_can_have(tmp_path: Path) -> None:
    make_brainwash(tmp_path)
    for name in ("a\0b.png", "x" * 5000):
        (tmp_path / "brainwash_train.idl").write_text(f'"{name}";')
        with pytest.raises(UserError, match=name[-5:]):
            BrainwashDataModule(root=str(tmp_path)).records("train")


@pytest.mark.parametrize("piece", ["1", " ", "(", "(1", "(1,", "1.", '"', "a ", "(1, 2, 3, 4", ":"])
def test_brainwash_lines_take_no_more_time_than_they_are_long(tmp_path: Path, piece: str) -> None:
    make_brainwash(tmp_path)
    for start in ("", '"a.png": (', '"a.png"'):
        (tmp_path / "brainwash_train.idl").write_text(start + piece * 30_000 + "x")
        began = time.process_time()
        with pytest.raises(UserError, match=r"line 1"):
            BrainwashDataModule(root=str(tmp_path)).records("train")
        assert time.process_time() - began < 2, "a second for 30,000 pieces, a minute where the pattern backtracks"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x: 2020-99-99", "is no YAML"),
        ("x: " + "[" * 500, "is no YAML"),
        ("names: [[dog], cat]", "'names'"),
        ("names: {0: {a: b}}", "'names'"),
        ("names: [dog, cat]\n7: x\nb: y", "no split 'nope'"),
    ],
)
def test_a_data_yaml(tmp_path: Path, content: str, message: str) -> None:
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\n" + content)
    with pytest.raises(UserError, match=rf"data\.yaml: .*{message}"):
        YOLODataModule(root=str(tmp_path), train_split="nope").records("train")


@pytest.mark.parametrize("place", ["[[a]]", "[{a: b}]", "x" * 5000])
def test_a_split_that_is_no_path(tmp_path: Path, place: str) -> None:
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: {place}\nval: images/val\nnames: [dog, cat]")
    with pytest.raises(UserError, match=r"data\.yaml: train: "):
        YOLODataModule(root=str(tmp_path)).records("train")


def test_yolo_texts_that_are_not_utf8_and_classes_beyond_any_set(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\n")
    label = tmp_path / "labels" / "train" / "00000.txt"
    label.write_text("99999999999 .5 .5 .2 .2\n")
    with pytest.raises(UserError, match=r"00000\.txt:1: .*99999999999"):
        _ = YOLODataModule(root=str(tmp_path)).class_names
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"classes\.txt: .*UTF-8"):
        YOLODataModule(root=str(tmp_path))
    (tmp_path / "train.txt").write_bytes(b"images/train/caf\xe9.jpg")
    (tmp_path / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [dog, cat]")
    with pytest.raises(UserError, match=r"train\.txt: .*UTF-8"):
        YOLODataModule(root=str(tmp_path)).records("train")
    (tmp_path / "train.txt").write_bytes(b"images/train/a\x00b.jpg")
    with pytest.raises(UserError, match=r"cannot be read"):
        YOLODataModule(root=str(tmp_path)).records("train")


def test_an_image_whose_name_is_not_utf8(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    image = tmp_path / "images" / "train" / "00000.jpg"
    image.rename(image.with_name(os.fsdecode(b"caf\xe9.jpg")))
    module = YOLODataModule(root=str(tmp_path), batch_size=4, image_size=64, num_workers=0, augment=False)
    (batch,) = module.train_dataloader()
    assert len(batch.images) == 4 and int(batch.mask.sum()) == 6, "three images have two boxes, its label has moved"


def test_a_named_pipe_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for read in (read_image, image_size_of):
        with pytest.raises(UserError, match=r"a\.jpg: .*plain file"):
            read(tmp_path / "a.jpg")


def test_a_jpeg_that_says_it_is_huge_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), dtype=np.uint8)))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\xff\xdc\xff\xdc"
    assert MAX_PIXELS < 0xFFDC**2
    (tmp_path / "a.jpg").write_bytes(data)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"a\.jpg: 65500 x 65500"):
        read_image(tmp_path / "a.jpg", expected_size=(65500, 65500))


@pytest.mark.parametrize("error", [IndexError("x"), EOFError(), MemoryError()])
def test_whatever_pil_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("anchor_lightning.data.images.Image.open", fail)
    (tmp_path / "a.png").write_bytes(b"x")
    for read in (read_image, image_size_of):
        with pytest.raises(UserError, match=rf"a\.png: .*{str(error) or type(error).__name__}"):
            read(tmp_path / "a.png")
