"""Scenes: pure functions of their key, with tight boxes; and the data set with known modes that is made of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from time import process_time
from timeit import repeat

import numpy as np
import pytest
import torch

from anchor_lightning.anchors import initial_shapes, shape_iou
from anchor_lightning.data import SyntheticDataModule
from anchor_lightning.data.sampler import SampleKey
from anchor_lightning.data.scenes import CANVAS, CELL, CLASS_NAMES, MAX_COVERED, MODES, draw_scene, paint
from anchor_lightning.errors import UserError


@pytest.fixture(scope="module")
def module() -> SyntheticDataModule:
    return SyntheticDataModule(num_train=1500, num_val=40, batch_size=8, num_workers=0)


def test_boxes_lie_around_the_modes_and_every_mode_and_class_has_its_share(module: SyntheticDataModule) -> None:
    wh, log_modes = module.train_box_shapes(), torch.tensor(MODES).log()
    nearest = (wh.log()[:, None] - log_modes).square().sum(-1).argmin(1)
    share = torch.bincount(nearest, minlength=5) / len(wh)
    assert share.min() > 0.14 and share.max() < 0.26
    for mode, log_mode in enumerate(log_modes):
        around = wh[nearest == mode].log() - log_mode
        assert around.mean(0).abs().max() < 0.03 and (around.std(0) - 0.12).abs().max() < 0.02
    labels = np.concatenate([ground_truth.labels for ground_truth in module.ground_truth("train")])
    assert np.bincount(labels, minlength=4).min() > 0.2 * len(labels)
    tall, scale = SyntheticDataModule(num_train=20, num_val=1, image_size=[448, 224]), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(tall.mode_shapes(), torch.tensor(MODES) * scale)
    torch.testing.assert_close(tall.train_box_shapes(), wh[: len(tall.train_box_shapes())] * scale)


def test_no_mode_is_near_an_initial_shape() -> None:
    uniform, identical = initial_shapes("uniform"), initial_shapes("identical", 1)
    assert uniform is not None and identical is not None
    initial, modes = torch.cat([uniform, identical]), torch.tensor(MODES)
    assert (modes[:, None] / initial).log().abs().amax(-1).min() > np.log(1.25)
    assert shape_iou(modes[:, None], initial).max() < 0.75


def test_splits_share_no_image_and_their_boxes_lie_in_it(module: SyntheticDataModule) -> None:
    module.setup("fit")
    splits = {"train": 1500, "val": 40, "test": 40}
    assert len({paint(draw_scene(0, split, index)).tobytes() for split in splits for index in range(20)}) == 60
    assert len({record.path for split in splits for record in module.records(split)}) == 1500 + 40 + 40
    for split, count in splits.items():
        ground_truths = module.ground_truth(split)
        assert [ground_truth.image_id for ground_truth in ground_truths] == list(range(1, count + 1))
        assert all(1 <= len(ground_truth.labels) <= 5 for ground_truth in ground_truths)
        boxes, labels, area, ignore = (
            np.concatenate([getattr(ground_truth, name) for ground_truth in ground_truths])
            for name in ("boxes_xyxy", "labels", "area", "ignore")
        )
        assert len(boxes) > 3 * count and (boxes >= 0).all() and (boxes <= CANVAS).all()
        assert set(labels.tolist()) == set(range(module.num_classes)) and not ignore.any()
        np.testing.assert_allclose(area, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    with pytest.raises(ValueError, match="val_split: 4 images"):
        SyntheticDataModule(num_train=4, num_val=4, val_split="train").setup("fit")


def test_samples_show_the_scene_of_the_ground_truth(module: SyntheticDataModule) -> None:
    sample = module.val_dataloader().dataset[SampleKey(7, 0, (CANVAS, CANVAS))]
    np.testing.assert_array_equal(sample.image, paint(draw_scene(0, "val", 7)))
    np.testing.assert_allclose(sample.boxes_xyxy, module.ground_truth("val")[7].boxes_xyxy)
    assert sample.image_id == 8


@pytest.mark.parametrize(
    ("argument", "value"), [("num_train", 0), ("num_val", 0), ("scene_seed", -1), ("root", "somewhere")]
)
def test_invalid_arguments(argument: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        SyntheticDataModule(**{argument: value})
    assert caught.value.argument == argument
    with pytest.raises(UserError, match=r"'trainval'.*train, val, test"):
        SyntheticDataModule(train_split="trainval").records("train")


def test_a_scene_is_a_pure_function_of_scene_seed_split_and_index() -> None:
    image = paint(draw_scene(3, "train", 5))
    assert image.shape == (CANVAS, CANVAS, 3) and image.dtype == np.uint8
    for other in (draw_scene(3, "val", 5), draw_scene(3, "train", 6), draw_scene(4, "train", 5)):
        assert (image != paint(other)).mean() > 0.5
    np.testing.assert_array_equal(image, paint(draw_scene(3, "train", 5)))  # after other scenes
    one, same, other = (SyntheticDataModule(3, 2, scene, seed=seed) for scene, seed in ((0, 1), (0, 2), (1, 1)))
    assert torch.equal(one.train_box_shapes(), same.train_box_shapes())
    assert one.train_box_shapes().tolist() != other.train_box_shapes().tolist()


def test_boxes_are_tight_around_the_drawn_pixels() -> None:
    """The mask of an object is what differs from the same image without it; nothing may leave the box."""
    slack = []
    for index in range(25):
        scene = draw_scene(1, "train", index)
        empty = paint(replace(scene, objects=()), foreground=False)
        for item in scene.objects:
            alone = paint(replace(scene, objects=(item,)), foreground=False)
            rows, columns = (alone != empty).any(-1).nonzero()
            drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            box = np.array([item.x, item.y, item.x + item.w, item.y + item.h])
            slack.append((drawn - box) * (1, 1, -1, -1))
    assert len(slack) > 50 and np.min(slack) >= 0
    # An edge pixel may by chance have the colour of the ground.
    assert np.mean(np.array(slack) == 0) > 0.98 and np.max(slack) <= 2


def test_centres_have_cells_of_their_own_and_nothing_is_mostly_covered() -> None:
    num_overlaps = 0
    for index in range(200):
        boxes = draw_scene(0, "train", index).ground_truth(1).boxes_xyxy.astype(int)
        assert len({tuple(cell) for cell in (boxes[:, :2] + boxes[:, 2:]) // 2 // CELL}) == len(boxes)
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            owner = np.zeros((CANVAS, CANVAS), dtype=bool)
            for a0, b0, a1, b1 in boxes[i + 1 :]:
                owner[b0:b1, a0:a1] = True
            covered = owner[y0:y1, x0:x1].mean()
            num_overlaps += covered > 0.05
            assert covered <= MAX_COVERED + 1e-9
    assert num_overlaps > 25  # occlusion does occur


def test_classes_look_different() -> None:
    """Same box and style, four labels: each pair of pictures differs clearly."""
    scene = draw_scene(0, "train", 0)
    item = replace(scene.objects[0], x=40, y=40, w=72, h=92)
    scenes = (replace(scene, objects=(replace(item, label=label),)) for label in range(len(CLASS_NAMES)))
    images = [paint(scene, foreground=False)[40:132, 40:112].astype(float) for scene in scenes]
    assert all(np.abs(one - other).mean() > 15 for one, other in combinations(images, 2))


def test_drawing_is_fast() -> None:
    scenes = [draw_scene(0, "train", index) for index in range(30)]
    times = repeat(lambda: [paint(scene) for scene in scenes], timer=process_time, repeat=3, number=1)
    assert min(times) / 30 < 0.006  # 2 ms on an idle core; a shared one gets twice that and more
