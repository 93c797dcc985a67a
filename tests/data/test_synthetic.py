from __future__ import annotations

import numpy as np
import pytest
import torch

from anchor_lightning.anchors import initial_shapes, shape_iou
from anchor_lightning.data.sampler import SampleKey
from anchor_lightning.data.scenes import CANVAS, draw_scene, paint
from anchor_lightning.data.synthetic import SyntheticDataModule
from anchor_lightning.errors import UserError


@pytest.fixture(scope="module")
def module() -> SyntheticDataModule:
    return SyntheticDataModule(num_train=1500, num_val=40, batch_size=8, num_workers=0)


def kmeans(log_wh: np.ndarray, num: int, seed: int = 0) -> np.ndarray:
    """Plain Lloyd iterations in log space, best of a few starts."""
    rng = np.random.default_rng(seed)
    best, best_error = log_wh[:num], np.inf
    for _ in range(10):
        centres = log_wh[rng.choice(len(log_wh), num, replace=False)]
        for _ in range(40):
            distance = ((log_wh[:, None] - centres) ** 2).sum(-1)
            nearest = distance.argmin(1)
            centres = np.stack(
                [log_wh[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(num)]
            )
        if distance.min(1).sum() < best_error:
            best, best_error = centres, distance.min(1).sum()
    return best


def test_modes_are_recovered_from_the_boxes(module: SyntheticDataModule) -> None:
    modes = module.mode_shapes().numpy()
    centres = np.exp(kmeans(np.log(module.train_box_shapes().numpy()), len(modes)))
    for mode in modes:
        nearest = centres[np.abs(np.log(centres / mode)).sum(1).argmin()]
        np.testing.assert_allclose(nearest, mode, rtol=0.04)


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
    images = [
        {paint(draw_scene(0, split, index)).tobytes() for index in range(20)} for split in ("train", "val", "test")
    ]
    assert len(set.union(*images)) == 60
    paths = [{record.path for record in module.records(split)} for split in ("train", "val", "test")]
    assert not paths[0] & paths[1] and not paths[0] & paths[2] and not paths[1] & paths[2]
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
            np.testing.assert_allclose(
                ground_truth.area, np.prod(ground_truth.boxes_xyxy[:, 2:] - ground_truth.boxes_xyxy[:, :2], axis=1)
            )
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


def test_an_unknown_split() -> None:
    with pytest.raises(UserError, match=r"'trainval'.*train, val, test"):
        SyntheticDataModule(train_split="trainval").records("train")
