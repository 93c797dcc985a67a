"""Brainwash's annotations and its native crops, on made frames."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from anchor_lightning.data import BrainwashDataModule
from anchor_lightning.data.formats.brainwash import parse_idl
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import write_image

LINES = """"frames/1.png": (10.0, 20.0, 40.0, 60.5), (100, 50, 80.0, 90);
"frames/2.png";
"frames/3.png": (-20, 5, 30, 1e2).
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train", "val"):
        (tmp_path / f"brainwash_{name}.idl").write_text(LINES.replace("frames", name))
        for i in (1, 2, 3):
            write_image(tmp_path / name / f"{i}.png", 120, 160, seed=i)
    return tmp_path


def test_frames_and_heads(root: Path) -> None:
    module = BrainwashDataModule(root=str(root))
    with pytest.warns(UserWarning, match=r"brainwash_train\.idl: 1 corners swapped, 1 clipped"):
        first, second, third = (r.ground_truth for r in module.records("train"))
    np.testing.assert_array_equal(first.boxes_xyxy, [[10, 20, 40, 60.5], [80, 50, 100, 90]])
    assert second.boxes_xyxy.shape == (0, 4)
    np.testing.assert_array_equal(third.boxes_xyxy, [[0, 5, 30, 100]])
    assert [t.image_id for t in (first, second, third)] == [1, 2, 3]
    assert module.class_names == ["head"]
    assert (module.image_size, module.val_image_size) == ((320, 320), (480, 640))


@pytest.mark.filterwarnings("ignore:Boxes of")
def test_crops_are_native_and_evaluation_is_whole(root: Path) -> None:
    module = BrainwashDataModule(root=str(root), batch_size=3, image_size=96, val_image_size=[128, 160], num_workers=0)
    torch.testing.assert_close(module.train_box_shapes()[0], torch.tensor([30.0, 40.5]))
    shapes = set()
    for batch in module.train_dataloader():
        assert batch.images.shape == (3, 3, 96, 96)
        boxes = batch.boxes_xyxy[batch.mask]
        inside = ((boxes > 0) & (boxes < 96)).all(1)
        shapes |= {tuple(wh) for wh in (boxes[inside, 2:] - boxes[inside, :2]).round(decimals=3).tolist()}
    assert shapes <= {(30, 40.5), (20, 40), (30, 95)}
    batch = next(iter(module.val_dataloader()))
    assert batch.images.shape == (3, 3, 128, 160)
    torch.testing.assert_close(batch.boxes_xyxy[0, 0], torch.tensor([10, 20 * 128 / 120, 40, 60.5 * 128 / 120]))


@pytest.mark.parametrize("end", [";", ".", "", " ;"])
def test_line_ends(tmp_path: Path, end: str) -> None:
    file = tmp_path / "one.idl"
    file.write_text(f'"a.png": (1, 2, 3, 4), (nan, 2, 3, 4){end}\n\n"b.png"{end}')
    (a, boxes), (b, none) = parse_idl(file)
    assert (a, boxes.shape, b, none.shape) == ("a.png", (2, 4), "b.png", (0, 4))


@pytest.mark.filterwarnings("ignore:Boxes of")
def test_bad_images_are_left_out_and_files_have_other_names(root: Path) -> None:
    (root / "train" / "2.png").unlink()
    with pytest.warns(UserWarning, match=r"Left out 1 .*2\.png"):
        records = BrainwashDataModule(root=str(root), skip_bad_images=True).records("train")
    assert [r.ground_truth.image_id for r in records] == [1, 3]
    other = BrainwashDataModule(root=str(root), train_split="brainwash_val.idl")
    assert other.records("train")[0].path == root / "val" / "1.png"


@pytest.mark.parametrize("piece", ["1", " ", "(", "(1", "(1,", "1.", '"', "a ", "(1, 2, 3, 4", ":"])
def test_lines_take_no_more_time_than_they_are_long(tmp_path: Path, piece: str) -> None:
    for start in ("", '"a.png": (', '"a.png"'):
        (tmp_path / "brainwash_train.idl").write_text(start + piece * 30_000 + "x")
        began = time.process_time()
        with pytest.raises(UserError, match=r"line 1"):
            BrainwashDataModule(root=str(tmp_path)).records("train")
        assert time.process_time() - began < 2, "a second for 30,000 pieces, a minute where the pattern backtracks"
