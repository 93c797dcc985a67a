"""Samples and batches: the same for any number of workers, padded to buckets, and unbothered by bad images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anchor_lightning.data import dataset as dataset_module
from anchor_lightning.data.dataset import DetectionDataset, DetectionLoader, Sample, bucket_size, collate
from anchor_lightning.data.sampler import NO_IMAGE, SampleKey
from anchor_lightning.data.transforms import NEUTRAL_COLOUR, GeometryParams
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import MemoryModule, attach, ground_truth, record, write_image

SIZE = (64, 96)


def image_records(folder: Path, count: int) -> list:
    files = [str(write_image(folder / f"{i}.jpg", seed=i)) for i in range(count)]
    return [record(i + 1, [[5, 5, 40, 30]], (40, 60), file) for i, file in enumerate(files)]


def sample(num_boxes: int, image_id: int = 1) -> Sample:
    boxes = np.tile(np.array([1, 2, 3, 4], dtype=np.float32), (num_boxes, 1))
    image = np.full((*SIZE, 3), max(image_id, 0), dtype=np.uint8)
    return Sample(image, boxes, np.arange(num_boxes), image_id, (40, 60), NEUTRAL_COLOUR)


@pytest.mark.parametrize(("boxes", "bucket"), [(0, 32), (1, 32), (32, 32), (33, 64), (64, 64), (65, 128), (1000, 1024)])
def test_boxes_are_padded_to_a_bucket_and_never_dropped(boxes: int, bucket: int) -> None:
    assert bucket_size(boxes) == bucket
    batch = collate([sample(boxes), sample(3, 2)])
    assert batch.boxes_xyxy.shape == (2, bucket, 4)
    assert batch.mask.sum(1).tolist() == [boxes, 3]
    assert batch.labels[0].tolist() == [*range(boxes), *[-1] * (bucket - boxes)]
    assert (batch.boxes_xyxy[~batch.mask] == 0).all()


def test_a_batch_is_what_its_record_says_without_places_that_hold_no_image() -> None:
    batch = collate([sample(0, NO_IMAGE), sample(2, 0), sample(0, 7), sample(0, NO_IMAGE)])
    assert batch.images.shape == (2, 3, *SIZE) and batch.images.dtype == torch.uint8
    assert batch.images[:, 0, 0, 0].tolist() == batch.image_ids.tolist() == [0, 7]
    assert batch.boxes_xyxy.dtype == batch.colour.dtype == batch.original_sizes.dtype == torch.float32
    assert batch.original_sizes.tolist() == [[40, 60]] * 2 and batch.colour.tolist() == [[0, 1, 1]] * 2
    empty = collate([sample(0, NO_IMAGE)])
    assert len(empty) == 0 and empty.images.shape == (0, 3, *SIZE) and empty.boxes_xyxy.shape == (0, 32, 4)
    assert empty.colour.shape == (0, 3) and empty.original_sizes.shape == (0, 2)
    module = MemoryModule()
    assert (
        module._make_dataset(module.records("val"), training=False)[SampleKey(NO_IMAGE, 0, SIZE)].image_id == NO_IMAGE
    )


def test_an_augmented_sample_depends_on_seed_epoch_and_index_only() -> None:
    module = MemoryModule(seed=4)
    dataset = module._make_dataset(module.records("train"), training=True)
    key = SampleKey(4, 2, SIZE)
    first = dataset[key]
    other = [dataset[k] for k in (key._replace(index=5), key._replace(epoch=3))]
    for one, again in zip(first, dataset[key], strict=True):
        np.testing.assert_array_equal(one, again)
    dataset.seed = 5
    assert not any(np.array_equal(first.colour, different.colour) for different in (*other, dataset[key]))


@pytest.mark.parametrize("split", ["train", "val"])
def test_batches_do_not_depend_on_the_number_of_workers(split: str) -> None:
    """Workers that live on follow the epoch: no iteration repeats another one's augmentation."""
    modules = [attach(MemoryModule(batch_size=4, image_size=64, num_workers=n, seed=3)) for n in (0, 2)]
    loaders = [getattr(module, f"{split}_dataloader")() for module in modules]
    for step in (0, 5, 12):
        for module in modules:
            module.trainer.global_step = step
        one, other = map(list, loaders)
        assert len(one) > 1
        for left, right in zip(one, other, strict=True):
            torch.testing.assert_close(vars(left), vars(right), rtol=0, atol=0)


def test_ignorable_boxes_are_targets_only_in_training_with_keep_difficult(tmp_path: Path) -> None:
    plain = image_records(tmp_path, 1)[0]
    records = [replace(plain, ground_truth=ground_truth(1, [[5, 5, 40, 30], [10, 10, 20, 20]], ignore=[False, True]))]
    for training, keep, count in ((True, False, 1), (True, True, 2), (False, True, 1), (False, False, 1)):
        dataset = DetectionDataset(records, training=training, keep_difficult=keep)
        assert len(dataset[SampleKey(0, 0, SIZE)].labels) == count


def test_without_augmentation_an_image_is_only_stretched(tmp_path: Path) -> None:
    """Its boxes fit it, although it is decoded at a fraction."""
    pixels = np.zeros((480, 640, 3), dtype=np.uint8)
    pixels[96:384, 64:320] = 255
    path = tmp_path / "big.png"
    Image.fromarray(pixels).save(path)
    dataset = DetectionDataset([record(1, [[64, 96, 320, 384]], (480, 640), str(path))])
    assert dataset.load(0, (96, 160)).shape[:2] == (120, 160)
    made = dataset[SampleKey(0, 3, (96, 160))]
    assert made.image.shape == (96, 160, 3) and made.colour.tolist() == [0, 1, 1]
    np.testing.assert_allclose(made.boxes_xyxy, [[16, 19.2, 80, 76.8]], rtol=1e-6)
    bright = made.image[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    np.testing.assert_allclose(made.boxes_xyxy[0], [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=0.6)


@pytest.mark.parametrize(("stored", "shown"), [(1, 2), (4, 1)], ids=["whole", "decoded at a quarter"])
def test_boxes_follow_the_window_to_the_whole_pixel(
    tmp_path: Path, stored: int, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an image of 40 x 60 decoded pixels the window is drawn from 6.6 to 52.8 and -5.2 to 30.8, and mirrored."""
    pixels = np.zeros((40 * stored, 60 * stored, 3), dtype=np.uint8)
    pixels[4 * stored : 20 * stored, 10 * stored : 30 * stored] = 255
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    drawn = GeometryParams(left=0.11, top=-0.13, width=0.77, height=0.9, flip=True)
    monkeypatch.setattr(dataset_module, "draw_jitter", lambda rng: drawn)
    box = (np.array([[10, 4, 30, 20]]) * stored).tolist()
    dataset = DetectionDataset([record(1, box, pixels.shape[:2], str(path))], augment=True)
    made = dataset[SampleKey(0, 0, (36 * shown, 46 * shown))]
    left, top, right, bottom = (shown * side for side in (46 - 23, 9, 46 - 3, 25))
    np.testing.assert_allclose(made.boxes_xyxy, [[left, top, right, bottom]], rtol=1e-6)
    bright = made.image[..., 0] > 127
    assert bright.sum() == bright[top:bottom, left:right].sum() == (bottom - top) * (right - left)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:Skipped an image")
def test_bad_images_are_replaced_in_training_left_out_in_evaluation_and_counted(
    tmp_path: Path, num_workers: int
) -> None:
    records = image_records(tmp_path, 6)
    for bad in (1, 2, 5):
        records[bad].path.write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"1\.jpg"):
        DetectionDataset(records)[SampleKey(1, 0, SIZE)]
    for training, ids in ((True, [1, 4, 4, 4, 5, 1]), (False, [1, 4, 5])):
        dataset = DetectionDataset(records, skip_bad_images=True, training=training, augment=training)
        keys = [[SampleKey(i, 0, SIZE) for i in part] for part in ((0, 1, 2), (3, 4, 5))]
        loader = DetectionLoader(dataset, batch_sampler=keys, num_workers=num_workers, collate_fn=collate)
        assert [i for batch in loader for i in batch.image_ids.tolist()] == ids
        assert dataset.bad_images == [1, 2, 5]


def test_a_bad_image_is_warned_of_once_and_nothing_but_bad_ones_is_an_error(tmp_path: Path) -> None:
    records = image_records(tmp_path, 2)
    records[0].path.write_bytes(b"")
    dataset = DetectionDataset(records, skip_bad_images=True, training=True)
    with pytest.warns(UserWarning, match=r"Skipped an image.*0\.jpg") as warned:
        dataset[SampleKey(0, 0, SIZE)]
        dataset[SampleKey(0, 1, SIZE)]
    assert len(warned) == 1
    records[1].path.unlink()
    with pytest.raises(UserError, match="2 images in a row"), pytest.warns(UserWarning, match="Skipped"):
        dataset[SampleKey(0, 0, SIZE)]
