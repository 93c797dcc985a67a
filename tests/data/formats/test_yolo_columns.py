"""What the columns of a line of YOLO labels mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.errors import UserError
from tests.helpers.annotation_exports import (
    BOX,
    YOLO_LINE,
    labelimg_voc,
    opened,
    roboflow_yolo,
)
from tests.helpers.tiny_data import write_text


def check(records: Sequence[ImageRecord]) -> None:
    for record in records:
        truth = record.ground_truth
        np.testing.assert_allclose(truth.boxes_xyxy[0], BOX)
        assert truth.labels[0] == 1


KEYPOINTS = "0.45 0.45 0.3 0.4 0.6 0.6"  # three points inside the box of YOLO_LINE
WITH_VISIBILITY = "0.45 0.45 2 0.3 0.4 1 0 0 0 0.6 0.6 2"
OUTLINE = "1 0.2 0.2 0.7 0.2 0.7 0.7 0.2 0.7"  # encloses the same box


@pytest.mark.parametrize(
    ("line", "more", "warns"),
    [
        (OUTLINE, "", False),
        ("1 0.2 0.2 0.2 0.7 0.3 0.25 0.7 0.3", "", False),  # what were keypoints do not lie in what were the box
        (f"{YOLO_LINE} {KEYPOINTS}", "kpt_shape: [3, 2]", False),
        (f"{YOLO_LINE} {WITH_VISIBILITY}", "kpt_shape: [4, 3]", False),
        (f"{YOLO_LINE} {WITH_VISIBILITY}", "", False),  # 17 numbers, as outlines have, but a 2 among them
        (f"{YOLO_LINE} 0.45 0.45 2", "", False),  # eight numbers, which no outline has
        (f"{YOLO_LINE} 0.45 0.45 2\n{YOLO_LINE} {KEYPOINTS}", "", True),
    ],
)
def test_what_the_columns_of_a_yolo_line_mean(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, line: str, more: str, warns: bool
) -> None:
    roboflow_yolo(tmp_path)
    for file in tmp_path.rglob("labels/*.txt"):
        write_text(file, line)
    write_text(tmp_path / "data.yaml", (tmp_path / "data.yaml").read_text() + more)
    check(opened(tmp_path).records("train"))
    assert any("keypoints" in str(w.message) for w in recwarn.list) == warns


def test_small_outlines_are_no_boxes_with_keypoints(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    roboflow_yolo(tmp_path)
    for file in tmp_path.rglob("labels/*.txt"):
        # As a box and two keypoints these are 0.05 to 0.35, which holds them.
        write_text(file, "1 0.2 0.2 0.3 0.2 0.3 0.3 0.2 0.3")
    for record in opened(tmp_path).records("train"):
        expected = np.array([0.2, 0.2, 0.3, 0.3]) * [record.width, record.height, record.width, record.height]
        np.testing.assert_allclose(record.ground_truth.boxes_xyxy[0], expected, rtol=1e-6)
    assert any("read as outlines" in str(w.message) and "kpt_shape" in str(w.message) for w in recwarn.list)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path)
    file = next((tmp_path / "train" / "labels").iterdir())
    for line, match in ((f"{YOLO_LINE} 0.9", "confidence"), ("1 270 180 300 200", "not pixels")):
        write_text(file, line)
        with pytest.raises(UserError, match=match):
            opened(tmp_path).records("train")


def test_names_that_yaml_takes_for_values(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path)
    text = (tmp_path / "data.yaml").read_text()
    for names, expected in (
        ("[yes, no]", ["yes", "no"]),
        ("{0: null, 1: 1e3}", ["null", "1e3"]),
        ("[2024-01-01, 0x10]", ["2024-01-01", "0x10"]),
        ("!!python/object/apply:os.system ['touch evil', b]", ["touch evil", "b"]),  # text, never run
    ):
        write_text(tmp_path / "data.yaml", text.replace("['dog', 'cat']", names))
        assert opened(tmp_path).class_names == expected


def test_rotated_boxes_are_refused_by_name(tmp_path: Path) -> None:
    labelimg_voc(tmp_path)
    rotated = "<robndbox><cx>6</cx><cy>5</cy><w>4</w><h>2</h><angle>0.5</angle></robndbox>"
    write_text(tmp_path / "a.b 0.xml", f"<annotation><object><name>cat</name>{rotated}</object></annotation>")
    with pytest.raises(UserError, match="lacks <bndbox> but a <robndbox>"):
        opened(tmp_path, val_share=0).records("train")
