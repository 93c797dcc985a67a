"""What every data module does: options, checks of the splits, anchors' box shapes, and the step onto the device."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from anchor_lightning.data import box_shapes as box_shapes
from anchor_lightning.data import reading
from anchor_lightning.data.annotated_set import Split
from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.data.transforms import GeometryParams, distort_colour
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import MemoryModule, attach, ground_truth, record


@pytest.mark.parametrize(
    ("argument", "value"), [("batch_size", 0), ("num_workers", -1), ("seed", -1), ("val_image_size", 100)]
)
def test_options_are_checked(argument: str, value: int) -> None:
    module = MemoryModule(image_size=320, val_image_size=[480, 640])
    assert (module.image_size, module.val_image_size) == ((320, 320), (480, 640))
    assert MemoryModule(image_size=[96, 32]).val_image_size == (96, 32)
    with pytest.raises(UserError) as caught:
        MemoryModule(**{argument: value})
    assert caught.value.argument == argument


def test_the_seed_is_lightnings_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert MemoryModule().data_seed == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert MemoryModule().data_seed == 7
    assert MemoryModule(seed=3).data_seed == 3


def test_splits_are_parsed_once_and_share_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    module = MemoryModule(val_split="test")
    assert module.records("val") is module.records("val")
    assert [truth.image_id for truth in module.ground_truth("val")] == [1, 2, 3]
    with pytest.raises(UserError, match=r"val_split: 20 images .*'train'"):
        MemoryModule(val_split="train").setup("fit")
    MemoryModule(val_split="train").setup("validate")
    # Training needs no validation split when there is no validation.
    monkeypatch.setitem(MemoryModule.counts, "val", 0)
    attach(MemoryModule(batch_size=4), limit_val_batches=0).setup("fit")


class TwoSizes(MemoryModule):
    """Boxes of known shapes in images of two sizes."""

    def _read_split(self, name: str) -> list[ImageRecord]:
        boxes = ground_truth(1, [[0, 0, 20, 10], [0, 0, 9, 9]], ignore=[False, True])
        return [
            ImageRecord(Path("a"), "a", 100, 200, boxes),
            record(2, [[10, 10, 60, 40]], (50, 100)),
            record(3, [], (50, 100)),
        ]


def test_box_shapes_are_those_that_the_network_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    module = TwoSizes(image_size=[32, 64])
    shapes = module.train_box_shapes()
    torch.testing.assert_close(shapes, torch.tensor([[6.4, 3.2], [32.0, 19.2]]))
    assert len(TwoSizes(image_size=[32, 64], keep_difficult=True).train_box_shapes()) == 3
    augmented = module.train_box_shapes(augmented=True)
    assert torch.equal(module.train_box_shapes(augmented=True), augmented) and not torch.equal(augmented, shapes)
    # A window over the right half and the lower half: what is left of the boxes fills twice the pixels. The first
    # image's box ends at 20 of 200 and is cropped away; the second's shows 50-60 of 100 and 25-40 of 50.
    monkeypatch.setattr(box_shapes, "draw_jitter", lambda rng: GeometryParams(0.5, 0.5, 0.5, 0.5))
    torch.testing.assert_close(module.train_box_shapes(augmented=True), torch.tensor([[12.8, 19.2]]))


class WithoutValidation(MemoryModule):
    """A set with a training split only."""

    def _has_split(self, name: str) -> bool:
        return name == "train"


def test_box_shapes_are_of_all_images_also_after_a_share_was_held_out() -> None:
    """The 20 training images have 19 boxes: 0, 1 or 2 each."""
    module = WithoutValidation(val_share=0.5)
    assert len(module.records("val")) == len(module.records("train")) == 10
    assert len(reading.box_shapes(module)[0]) == 19 and len(module.records("train")) == 20


@pytest.mark.parametrize(
    ("trained", "here", "fn", "said"),
    [
        ({}, {}, "validate", ""),
        (
            {},
            {"split_seed": 1},
            "validate",
            r"out 0\.5 of 20 images \(split_seed 0\) for validation, this run 0\.5 of 20 .*_seed 1\)",
        ),
        ({"val_share": 0}, {}, "validate", r"held out nothing for validation, this run 0\.5"),
        ({}, {"split_seed": 1}, "test", ""),  # which has a split of its own
        ({}, {"val_share": 0}, "fit", "this run nothing"),
        ({}, {}, "fit", ""),
    ],
)
def test_a_checkpoint_that_was_trained_on_what_is_measured_is_said(
    trained: dict[str, Any], here: dict[str, Any], fn: str, said: str, recwarn: pytest.WarningsRecorder
) -> None:
    def module(options: dict[str, Any], split: Split) -> MemoryModule:
        made = attach(WithoutValidation(batch_size=4, **{"val_share": 0.5} | options), state=SimpleNamespace(fn=fn))
        made.records(split)
        return made

    splits: dict[str, Split] = {"validate": "val", "test": "test", "fit": "train"}
    module(here, splits[fn]).load_state_dict(module(trained, "train").state_dict())
    warnings = [str(warning.message) for warning in recwarn]
    assert len(warnings) == bool(said) and all(re.search(said, text) for text in warnings)


class OneForBoth(MemoryModule):
    """A set whose test split is its validation split, as VOC's is by default, or that of a set without a test split."""

    def _default_split(self, role: Split) -> str:
        return "val" if role == "test" else role


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_a_test_split_that_is_the_validation_split_is_said(stage: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for module in (MemoryModule(batch_size=2), OneForBoth(batch_size=2, test_split="val")):  # none, and asked for
        module.setup(stage)
    assert "Test and validation" not in caplog.text
    module = OneForBoth(batch_size=2)
    module.setup("validate")
    assert "Test and validation" not in caplog.text
    for _ in range(2):
        module.setup(stage)
    assert caplog.text.count("Test and validation are one split of this set, 'val'.") == 1


def test_box_shapes_of_native_crops_are_the_stored_ones() -> None:
    module = TwoSizes(image_size=[32, 64])
    module.native_crop = True
    torch.testing.assert_close(module.train_box_shapes(), torch.tensor([[20.0, 10.0], [50.0, 30.0]]))


def test_ranks_share_the_global_batch() -> None:
    def ids(rank: int, world_size: int, split: str) -> list[list[int]]:
        module = MemoryModule(batch_size=4, image_size=32, num_workers=0)
        attach(module, global_rank=rank, world_size=world_size)
        return [batch.image_ids.tolist() for batch in getattr(module, f"{split}_dataloader")()]

    alone, first, second = ids(0, 1, "train"), ids(0, 2, "train"), ids(1, 2, "train")
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in alone]
    assert sorted(i for rank in (0, 1) for batch in ids(rank, 2, "val") for i in batch) == list(range(1, 8))
    assert ids(3, 4, "test") == [[]]


def test_on_the_device_images_are_floats_and_colours_change_in_training_only() -> None:
    module = attach(MemoryModule(batch_size=4, image_size=32, num_workers=0))
    batches = iter(module.train_dataloader())
    batch = next(batches)
    plain = batch.images.float() / 255
    trained = module.on_after_batch_transfer(batch, 0)
    assert torch.equal(trained.images, distort_colour(plain, batch.colour)) and batch.images.dtype == torch.uint8
    kept = trained.images.clone()
    module.on_after_batch_transfer(next(batches), 0)
    assert torch.equal(trained.images, kept), "whoever keeps a batch keeps its images"
    for other in (attach(MemoryModule(), training=False), attach(MemoryModule(augment=False))):
        assert torch.equal(other.on_after_batch_transfer(batch, 0).images, plain)
