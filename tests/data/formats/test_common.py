"""Text files: what is no UTF-8; whatever boxes come in, usable ones come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anchor_lightning.data.formats.common import SplitReader, exists, read_text
from anchor_lightning.errors import UserError


def test_texts(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffé\n".encode())
    assert read_text(file) == "é\n"
    file.write_bytes(b"caf\xe9 ol\xe9")
    with pytest.raises(UserError, match=r"a\.txt: .*byte 3"):
        read_text(file)
    file.unlink()
    with pytest.raises(UserError, match=r"a\.txt: .*No such file"):
        read_text(file)
    assert read_text(file, default="") == ""


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    assert exists(tmp_path) and not exists(tmp_path / "x")
    assert not exists(tmp_path / ("x" * 5000)) and not exists(tmp_path / "a\0b")


def clean(boxes: np.ndarray, reader: SplitReader) -> np.ndarray:
    """The boxes that are kept in an image of 50 x 30 pixels."""
    labels = list(range(len(boxes)))
    return reader.record(1, Path("a.png"), "a", (30, 50), boxes, labels, "here").ground_truth.boxes_xyxy


@given(arrays(np.float64, st.tuples(st.integers(0, 6), st.just(4)), elements=st.floats(-1e3, 1e3) | st.floats()))
def test_what_is_kept_lies_in_the_image_and_has_an_area(boxes: np.ndarray) -> None:
    reader = SplitReader()
    cleaned = clean(boxes, reader)
    assert len(boxes) - len(cleaned) == sum(n for kind, n in reader.counts.items() if kind.startswith("dropped"))
    assert (cleaned[:, :2] < cleaned[:, 2:]).all()
    assert (cleaned >= 0).all()
    assert (cleaned <= [50, 30, 50, 30]).all()


def test_good_boxes_are_untouched_and_unreported(recwarn: pytest.WarningsRecorder) -> None:
    reader, boxes = SplitReader(), np.array([[0, 0, 50, 30], [1.5, 2, 3, 4.25]])
    np.testing.assert_array_equal(clean(boxes, reader), boxes)
    np.testing.assert_array_equal(clean(np.array([[-0.5, 0, 50.9, 30]]), reader), [[0, 0, 50, 30]])
    reader.report("train", [], ["cat"])
    assert not recwarn.list
