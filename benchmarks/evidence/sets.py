"""The real data sets of the evidence, and the arms, starts and recipe that are compared on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from anchor_lightning.data import COCODataModule, DetectionDataModule, VOCDataModule, YOLODataModule

CONFIGS = Path(__file__).parents[2] / "configs"
BACKBONE = "tf_efficientnet_lite0"
# Chosen once, on the baseline, on BCCD's validation split (docs/results.md); the same for all sets, arms and starts.
RECIPE: dict[str, Any] = {
    "width": 0.25,
    "objectness_init": 0.01,
    "prior_images": 0,
    "learning_rate": 1e-2,
    "warm_up": 20,  # steps at a tenth of the rate
    "drop_at": 0.75,  # share of the steps after which the rate is a tenth
    "clip": 10.0,
    "backbone_lr_mult": 1.0,
    "lr_mult": 1.0,
}


@dataclass(frozen=True)
class RealSet:
    """A real data set.

    Args:
        kind: Its data module.
        folder: Under the data folder.
        options: Of the data module, the split that is reported as `test_split` among them.
        image_size: Side of the network input in pixels.
        batch_size: Images of a step.
        steps: Optimizer steps of a run.
        frozen_stages: Stages of the backbone that are not trained, or `all`: features are then computed once.
        precision: Of the trainer; the same for all runs of a set.
        strides: Of the features of the backbone, the smallest first.
        variants: Augmented variants of each training image, of which features are computed.
        pretrained: Whether the backbone is `BACKBONE` with its weights; else the detector's own, from random ones.
    """

    kind: type[DetectionDataModule]
    folder: str
    options: dict[str, Any]
    image_size: int
    batch_size: int
    steps: int
    frozen_stages: int | str
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    strides: tuple[int, ...] = (16, 32)
    variants: int = 4
    pretrained: bool = True

    def module(self, data: Path, seed: int) -> DetectionDataModule:
        """The data module, with augmentation."""
        size = {"image_size": self.image_size, "batch_size": self.batch_size}
        return self.kind(root=str(data / self.folder), num_workers=0, seed=seed, **size, **self.options)


# Objects of BCCD and aerial_cars are small: larger images, and more steps until the rarest class of BCCD's validation
# split is found at all. COCO's steps were raised from 400, after which one baseline run found next to nothing.
SETS = {
    "voc12": RealSet(
        VOCDataModule, "VOCdevkit", {"years": [2012], "test_split": "val"}, 320, 16, 400, "all", "32-true"
    ),
    "coco": RealSet(COCODataModule, "coco", {"test_split": "val"}, 320, 16, 1000, "all"),
    "bccd": RealSet(VOCDataModule, "BCCD", {"test_split": "test"}, 416, 8, 900, "all"),
    "aerial_cars": RealSet(YOLODataModule, "aerial_cars", {"test_split": "val"}, 512, 8, 600, "all"),
    "cards": RealSet(VOCDataModule, "cards", {"test_split": "val"}, 320, 8, 400, "all"),
}
# Frozen features find small objects badly, and their trainings are short. Here the whole network is trained, from
# random weights, with the recipe and the steps of `small.yaml`: DarkNet-19 of a quarter of the channels.
SMALL = {
    "bccd-small": replace(SETS["bccd"], pretrained=False, frozen_stages=0, steps=1200),
    "aerial_cars-small": replace(SETS["aerial_cars"], pretrained=False, frozen_stages=0, steps=1200),
}
# The arms of Table 6 and the two baselines are the shipped overlays; the choices that the paper leaves open differ
# from the full method in one option each.
OVERLAYS = ("baseline", "baseline-bn", "opt", "opt-soft", "opt-soft-clust", "opt-soft-clust-bn")
ARMS = {name: yaml.safe_load((CONFIGS / "ablation" / f"{name}.yaml").read_text()) for name in OVERLAYS}
CHOICES: dict[str, dict[str, Any]] = {
    "full + fixed shapes": {"model": {"anchors": {"learn": False}}},  # soft assignment and batch norm alone
    "full + T auto": {"soft_assignment": {"start": "auto"}},
    "full + T geometric": {"soft_assignment": {"schedule": "geometric"}},
    "full + γ 0.3": {"model": {"detector": {"init_args": {"bn_scale_init": 0.3}}}},
    "full + distance iou": {"soft_assignment": {"distance": "iou"}},
    "full + lr_mult 0.1": {"model": {"anchors": {"lr_mult": 0.1}}},  # what YOLOv3 needs (docs/results.md)
    "full + norm over positives": {"model": {"detector": {"class_path": "variants.YOLOv2NormOverPositives"}}},
    "full + T auto geometric + γ 0.3": {
        "soft_assignment": {"start": "auto", "schedule": "geometric"},
        "model": {"detector": {"init_args": {"bn_scale_init": 0.3}}},
    },
}
STARTS = {"kmeans": "kmeans", "uniform": "uniform", "identical": "identical", "coco": "yolov2-coco"}
WARM_UP_SHARE = 0.25  # of the steps, where an overlay has the paper's 1,500


def arm_options(arm: str) -> dict[str, Any]:
    """The options of an arm: `class_path` and `detector` (its arguments), `anchors`, and those of the two warm-ups."""
    base = ARMS["opt-soft-clust-bn"] if arm in CHOICES else ARMS[arm]
    change = CHOICES.get(arm, {})
    changed = change.get("model", {}).get("detector", {})
    detector = base["model"]["detector"]["init_args"] | changed.get("init_args", {})
    schedules = {name: base[name] | change.get(name, {}) for name in ("soft_assignment", "clustering")}
    anchors = base["model"]["anchors"] | change.get("model", {}).get("anchors", {})
    return {"class_path": changed.get("class_path", "YOLOv2"), "detector": detector, "anchors": anchors, **schedules}
