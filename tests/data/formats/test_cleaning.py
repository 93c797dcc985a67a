"""Whatever boxes come in, usable ones come out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anchor_lightning.data.formats.cleaning import BoxCleaner


@given(arrays(np.float64, st.tuples(st.integers(0, 6), st.just(4)), elements=st.floats(-1e3, 1e3) | st.floats()))
def test_what_is_kept_lies_in_the_image_and_has_an_area(boxes: np.ndarray) -> None:
    cleaner = BoxCleaner()
    cleaned, kept = cleaner.clean(boxes, 30, 50, "here")
    assert len(cleaned) == kept.sum()
    assert len(boxes) - len(cleaned) == sum(n for kind, n in cleaner.counts.items() if kind.startswith("dropped"))
    assert (cleaned[:, :2] < cleaned[:, 2:]).all()
    assert (cleaned >= 0).all()
    assert (cleaned <= [50, 30, 50, 30]).all()


def test_good_boxes_are_untouched_and_unreported(recwarn: pytest.WarningsRecorder) -> None:
    cleaner = BoxCleaner()
    boxes = np.array([[0, 0, 50, 30], [1.5, 2, 3, 4.25]])
    cleaned, kept = cleaner.clean(boxes, 30, 50, "here")
    np.testing.assert_array_equal(cleaned, boxes)
    assert kept.all()
    cleaned, _ = cleaner.clean(np.array([[-0.5, 0, 50.9, 30]]), 30, 50, "here")
    np.testing.assert_array_equal(cleaned, [[0, 0, 50, 30]])
    cleaner.report("train")
    assert not recwarn.list
