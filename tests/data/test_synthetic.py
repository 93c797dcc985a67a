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
from anchor_lightning.data.sampler import SampleKey
from anchor_lightning.data.scenes import CANVAS, CELL, CLASS_NAMES, MAX_COVERED, draw_scene, paint
from anchor_lightning.data.synthetic import SyntheticDataModule
from anchor_lightning.errors import UserError


@pytest.fixture(scope="module")
def module() -> SyntheticDataModule:
    return SyntheticDataModule(num_train=1500, num_val=40, batch_size=8, num_workers=0)


def test_modes_are_recovered_from_the_boxes(module: SyntheticDataModule) -> None:
    modes, log_wh = np.log(module.mode_shapes().numpy()), np.log(module.train_box_shapes().numpy())
    rng = np.random.default_rng(0)
    found = []
    for _ in range(5):  # Lloyd's iterations from boxes: the best of five starts
        centres = rng.choice(log_wh, 5, replace=False)
        for _ in range(40):
            distance = np.square(log_wh[:, None] - centres).sum(-1)
            nearest = distance.argmin(1)
            centres = np.stack([log_wh[nearest == k].mean(0) for k in range(5)])
        found.append((distance.min(1).sum(), centres.tolist()))
    centres = np.array(min(found)[1])
    for mode in modes:
        nearest = centres[np.abs(centres - mode).sum(1).argmin()]
        np.testing.assert_allclose(np.exp(nearest), np.exp(mode), rtol=0.04)


def test_every_mode_and_class_has_its_share(module: SyntheticDataModule) -> None:
    shapes = module.train_box_shapes()
    nearest = (shapes.log()[:, None] - module.mode_shapes().log()).square().sum(-1).argmin(1)
    share = torch.bincount(nearest, minlength=5) / len(shapes)
    assert share.min() > 0.14 and share.max() < 0.26
    labels = np.concatenate([ground_truth.labels for ground_truth in module.ground_truth("train")])
    assert np.bincount(labels, minlength=4).min() > 0.2 * len(labels)


def test_no_mode_is_near_an_initial_shape() -> None:
    uniform, identical = initial_shapes("uniform"), initial_shapes("identical", 1)
    assert uniform is not None and identical is not None
    initial = torch.cat([uniform, identical])
    modes = SyntheticDataModule(num_train=1, num_val=1).mode_shapes()
    ratio = (modes[:, None] / initial).log().abs().amax(-1)
    assert ratio.min() > np.log(1.25)
    assert shape_iou(modes[:, None], initial).max() < 0.75


def test_modes_scale_with_the_network_input() -> None:
    module = SyntheticDataModule(num_train=200, num_val=1, image_size=[448, 224])
    expected = torch.tensor(SyntheticDataModule.MODES) * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(module.mode_shapes(), expected)
    aspect = module.train_box_shapes().log().mean(0) - expected.log().mean(0)
    assert aspect.abs().max() < 0.15


def test_splits_share_no_image(module: SyntheticDataModule) -> None:
    module.setup("fit")
    splits = ("train", "val", "test")
    assert len({paint(draw_scene(0, split, index)).tobytes() for split in splits for index in range(20)}) == 60
    assert len({record.path for split in splits for record in module.records(split)}) == 1500 + 40 + 40
    with pytest.raises(ValueError, match="val_split: 4 images"):
        SyntheticDataModule(num_train=4, num_val=4, val_split="train").setup("fit")


def test_boxes_lie_in_the_image_with_labels_and_ids_from_one(module: SyntheticDataModule) -> None:
    for split in ("train", "val", "test"):
        ground_truths = module.ground_truth(split)
        assert [ground_truth.image_id for ground_truth in ground_truths] == list(range(1, len(ground_truths) + 1))
        for ground_truth in ground_truths:
            assert 1 <= len(ground_truth.labels) <= 5
            assert (ground_truth.boxes_xyxy >= 0).all() and (ground_truth.boxes_xyxy <= CANVAS).all()
            assert ((ground_truth.labels >= 0) & (ground_truth.labels < module.num_classes)).all()
            sides = ground_truth.boxes_xyxy[:, 2:] - ground_truth.boxes_xyxy[:, :2]
            np.testing.assert_allclose(ground_truth.area, sides.prod(axis=1))
            assert not ground_truth.ignore.any()
    assert np.mean([len(ground_truth.labels) for ground_truth in module.ground_truth("train")]) > 3


def test_samples_show_the_scene_of_the_ground_truth(module: SyntheticDataModule) -> None:
    dataset = module.val_dataloader().dataset
    sample = dataset[SampleKey(7, 0, (CANVAS, CANVAS))]
    np.testing.assert_array_equal(sample.image, paint(draw_scene(0, "val", 7)))
    np.testing.assert_allclose(sample.boxes_xyxy, module.ground_truth("val")[7].boxes_xyxy)
    assert sample.image_id == 8


def test_the_seed_of_the_order_leaves_the_scenes_alone() -> None:
    first, second = (SyntheticDataModule(num_train=3, num_val=2, seed=seed) for seed in (1, 2))
    torch.testing.assert_close(first.train_box_shapes(), second.train_box_shapes())
    other = SyntheticDataModule(num_train=3, num_val=2, scene_seed=1)
    assert first.train_box_shapes().tolist() != other.train_box_shapes().tolist()


@pytest.mark.parametrize(
    ("argument", "value"), [("num_train", 0), ("num_val", 0), ("scene_seed", -1), ("root", "somewhere")]
)
def test_invalid_arguments(argument: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        SyntheticDataModule(**{argument: value})
    assert caught.value.argument == argument
    with pytest.raises(UserError, match=r"'trainval'.*train, val, test"):
        SyntheticDataModule(train_split="trainval").records("train")


def test_a_scene_is_a_pure_function_of_seed_split_and_index() -> None:
    image = paint(draw_scene(3, "train", 5))
    assert image.shape == (CANVAS, CANVAS, 3) and image.dtype == np.uint8
    # Other scenes in between must not matter.
    paint(draw_scene(3, "val", 5))
    np.testing.assert_array_equal(image, paint(draw_scene(3, "train", 5)))
    for other in (draw_scene(3, "val", 5), draw_scene(3, "train", 6), draw_scene(4, "train", 5)):
        assert (image != paint(other)).mean() > 0.5


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
    for index in range(400):
        boxes = draw_scene(0, "train", index).ground_truth(1).boxes_xyxy.astype(int)
        cells = {tuple(cell) for cell in (boxes[:, :2] + boxes[:, 2:]) // 2 // CELL}
        assert len(cells) == len(boxes)
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            owner = np.zeros((CANVAS, CANVAS), dtype=bool)
            for a0, b0, a1, b1 in boxes[i + 1 :]:
                owner[b0:b1, a0:a1] = True
            covered = owner[y0:y1, x0:x1].mean()
            num_overlaps += covered > 0.05
            assert covered <= MAX_COVERED + 1e-9
    assert num_overlaps > 50  # occlusion does occur


def test_classes_look_different() -> None:
    """Same box and style, four labels: each pair of pictures differs clearly."""
    scene = draw_scene(0, "train", 0)
    item = replace(scene.objects[0], x=40, y=40, w=72, h=92)
    images = [
        paint(replace(scene, objects=(replace(item, label=label),)), foreground=False)[40:132, 40:112].astype(float)
        for label in range(len(CLASS_NAMES))
    ]
    assert all(np.abs(one - other).mean() > 15 for one, other in combinations(images, 2))


def test_drawing_is_fast() -> None:
    scenes = [draw_scene(0, "train", index) for index in range(60)]
    times = repeat(lambda: [paint(scene) for scene in scenes], timer=process_time, repeat=3, number=1)
    assert min(times) / 60 < 0.006  # 2 ms on an idle core; a shared one gets twice that and more
