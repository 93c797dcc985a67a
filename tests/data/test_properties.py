"""Whatever numbers a file holds: what is read lies in its image, or the error names the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_lightning import data
from anchor_lightning.data import DetectionDataModule
from anchor_lightning.errors import UserError
from anchor_lightning.structures import GroundTruth
from tests.helpers import made_data
from tests.helpers.made_data import SIZE, Box, coco_text, idl_line, voc_text, yolo_text

HEIGHT, WIDTH = SIZE
ANY = st.floats() | st.integers(-(10**30), 10**30).map(float) | st.sampled_from([0.0, 1.0, 96.0, 128.0, -0.0])
"""Coordinates as they may stand in a file, most of them far outside."""
NEAR = st.floats(-5, 140, width=32)
GOOD = st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(62, WIDTH), st.integers(42, HEIGHT))
# A data set of one training image; the file with its boxes; what reads the set.
FORMATS: dict[str, tuple[Callable[[Sequence[Box]], str], str, Callable[[str], DetectionDataModule]]] = {
    "voc": (
        voc_text,
        "VOC2012/Annotations/2012_10000.xml",
        lambda root: data.VOCDataModule(root=f"{root}/VOC2012", class_names=["dog", "cat"]),
    ),
    "coco": (
        lambda boxes: coco_text({1: boxes}),
        "annotations/instances_train2017.json",
        lambda root: data.COCODataModule(root=root),
    ),
    "brainwash": (
        lambda boxes: idl_line("images_train/00000000_128x96.png", boxes),
        "brainwash_train.idl",
        lambda root: data.BrainwashDataModule(root=root),
    ),
    "yolo": (yolo_text, "labels/train/00000.txt", lambda root: data.YOLODataModule(root=root)),
}
Reader = Callable[[Sequence[Box]], GroundTruth | None]


@pytest.fixture(scope="module", params=FORMATS)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Writes boxes as the annotation of an image and reads them; None where the error names the file."""
    text, name, module = FORMATS[request.param]
    root: Path = getattr(made_data, f"make_{request.param}")(tmp_path_factory.mktemp(request.param), num=1)

    def read_back(boxes: Sequence[Box]) -> GroundTruth | None:
        (root / name).write_text(text(boxes))
        try:
            (record,) = module(str(root)).records("train")
        except UserError as error:
            assert str(root) in str(error)
            return None
        return record.ground_truth

    return read_back


@pytest.mark.filterwarnings("ignore:Boxes of")
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@settings(max_examples=40, deadline=None)
@given(boxes=st.lists(st.tuples(ANY, ANY, ANY, ANY) | st.tuples(NEAR, NEAR, NEAR, NEAR), max_size=4))
def test_what_is_read_lies_in_the_image(read: Reader, boxes: list[Box]) -> None:
    if (found := read(boxes)) is None:
        return
    corners = found.boxes_xyxy
    assert len(found.labels) == len(found.ignore) == len(found.area) == len(corners) <= len(boxes)
    assert np.isfinite(corners).all() and (corners[:, 2:] > corners[:, :2]).all()
    assert (corners >= 0).all() and (corners <= (WIDTH, HEIGHT, WIDTH, HEIGHT)).all()


@settings(max_examples=40, deadline=None)
@given(boxes=st.lists(GOOD, max_size=3))
def test_good_boxes_come_back(read: Reader, boxes: list[Box]) -> None:
    found = read(boxes)
    assert found is not None
    np.testing.assert_allclose(found.boxes_xyxy, np.array(boxes).reshape(-1, 4), atol=1e-9)
