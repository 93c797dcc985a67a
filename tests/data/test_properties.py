"""Whatever numbers a file holds: what is read lies in its image, or the error names the file."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchor_lightning import data
from anchor_lightning.data import DetectionDataModule
from anchor_lightning.data.formats.brainwash import parse_idl
from anchor_lightning.data.formats.yolo import read_label_file
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import write_image, write_text

HEIGHT, WIDTH = 40, 60
Corners = tuple[float, float, float, float]
ANY = st.floats() | st.integers(-(10**30), 10**30).map(float) | st.sampled_from([0.0, 1.0, 40.0, 60.0, -0.0])
"""Coordinates as they may stand in a file, most of them far outside."""
NEAR = st.floats(-5, 70, width=32)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def voc(root: Path, boxes: Sequence[Corners]) -> DetectionDataModule:
    write_image(root / "JPEGImages" / "a.png", HEIGHT, WIDTH)
    corners = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    objects = [f"<object><name>dog</name><bndbox>{corners.format(*box)}</bndbox></object>" for box in boxes]
    write_text(root / "Annotations" / "a.xml", f"<annotation>{''.join(objects)}</annotation>")
    write_text(root / "ImageSets" / "Main" / "train.txt", "a\n")
    return data.VOCDataModule(root=str(root), class_names=["dog"])


def coco(root: Path, boxes: Sequence[Corners]) -> DetectionDataModule:
    write_image(root / "train2017" / "a.png", HEIGHT, WIDTH)
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    annotations = [
        {"id": n, "image_id": 1, "category_id": 3, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for n, (x1, y1, x2, y2) in enumerate(boxes)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "dog"}]}
    write_text(root / "annotations" / "instances_train2017.json", json.dumps(content))
    return data.COCODataModule(root=str(root))


def brainwash(root: Path, boxes: Sequence[Corners]) -> DetectionDataModule:
    write_image(root / "a.png", HEIGHT, WIDTH)
    line = ", ".join(f"({', '.join(map(str, box))})" for box in boxes)
    (root / "brainwash_train.idl").write_text(f'"a.png": {line};\n')
    return data.BrainwashDataModule(root=str(root))


def yolo(root: Path, boxes: Sequence[Corners]) -> DetectionDataModule:
    write_image(root / "images" / "train" / "a.png", HEIGHT, WIDTH)
    lines = [
        f"0 {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}\n"
        for x1, y1, x2, y2 in boxes
    ]
    write_text(root / "labels" / "train" / "a.txt", "".join(lines))
    return data.YOLODataModule(root=str(root), class_names=["dog"])


Maker = Callable[[Path, Sequence[Corners]], DetectionDataModule]
MAKERS = [voc, coco, brainwash, yolo]
POINTS = st.tuples(st.integers(1, 28), st.integers(1, 18), st.integers(30, WIDTH), st.integers(20, HEIGHT))


@pytest.mark.filterwarnings("ignore:Boxes of")
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("make", MAKERS)
@quick
@given(boxes=st.lists(st.tuples(ANY, ANY, ANY, ANY) | st.tuples(NEAR, NEAR, NEAR, NEAR), max_size=4))
def test_what_is_read_lies_in_the_image(make: Maker, boxes: list[Corners]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            (record,) = make(Path(folder), boxes).records("train")
        except UserError as error:
            assert folder in str(error)
            return
    ground_truth = record.ground_truth
    read = ground_truth.boxes_xyxy
    assert {len(x) for x in (ground_truth.labels, ground_truth.ignore, ground_truth.area)} == {len(read)}
    assert len(read) <= len(boxes)
    assert np.isfinite(read).all() and (read[:, 2:] > read[:, :2]).all()
    assert (read >= 0).all() and (read <= (WIDTH, HEIGHT, WIDTH, HEIGHT)).all()


@pytest.mark.parametrize("make", MAKERS)
@quick
@given(corners=st.lists(POINTS, max_size=3))
def test_good_boxes_come_back(make: Maker, corners: list[Corners]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (record,) = make(Path(folder), corners).records("train")
    expected = np.array(corners, dtype=float).reshape(-1, 4)
    if make is voc:  # 1-based, inclusive
        expected[:, :2] -= 1
    np.testing.assert_allclose(record.ground_truth.boxes_xyxy, expected, atol=1e-9)


ANY_TEXT = st.text(max_size=80) | st.text('"a:(),;. 1-\n', max_size=60)


@pytest.mark.parametrize("read", [read_label_file, parse_idl])
@quick
@given(content=st.binary(max_size=80) | ANY_TEXT.map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_are_boxes_or_an_error(read: Callable[[Path], list[Any]], content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.txt"
        file.write_bytes(content)
        try:
            found = read(file)
        except UserError as error:
            assert "a.txt" in str(error)
            return
    if read is parse_idl:
        assert all(name and boxes.shape[1:] == (4,) for name, boxes in found)
    else:
        assert all(number >= 0 and len(box) == 4 and all(map(math.isfinite, box)) for number, box in found)
