"""The evidence on YOLOv2: do its shapes gain by learning, from which start, with which parts of the method?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from sets import BACKBONE, CHOICES, OVERLAYS, RECIPE, SMALL, STARTS, WARM_UP_SHARE, arm_options
from sets import SETS as FROZEN
from torch import Tensor
from training import SIZES, train_and_test

from anchor_lightning.anchors import AnchorOptions, assign
from anchor_lightning.callbacks import ClusteringDecay, SoftAssignment

CSV: Final = "runs.csv"
SETS: Final = FROZEN | SMALL


class Run(NamedTuple):
    """One training; `num` shapes."""

    set: str
    arm: str
    start: str
    seed: int
    num: int


def grid() -> list[Run]:
    """All runs, what is claimed first: eight seeds of the arms that matter from two starts on every set."""
    runs = list[Run]()
    main = ("baseline", "baseline-bn", "opt-soft-clust-bn")
    # With fixed shapes: what is left of the gain without learning, the soft assignment's and the norm's. The network's
    # rate is ten times the paper's, a tenth of it for the shapes is the paper's 1e-3.
    more, starts = ("full + fixed shapes", "full + lr_mult 0.1"), ("kmeans", "uniform")
    for seed in range(8):
        runs += [Run(s, arm, start, seed, 5) for s in FROZEN for start in starts for arm in (*main, *more)]
    for seed in range(4):
        runs += [Run(s, arm, "kmeans", seed, 5) for s in SMALL for arm in (*main, *more)]
        runs += [Run(s, arm, start, seed, 5) for s in FROZEN for start in starts for arm in OVERLAYS]
        runs += [Run(s, arm, "identical", seed, 5) for s in FROZEN for arm in main]
        runs += [Run("aerial_cars", arm, "coco", seed, 5) for arm in main]
        runs += [Run("voc12", arm, "kmeans", seed, num) for num in (3, 7, 9) for arm in main]
        runs += [Run(s, arm, "kmeans", seed, 5) for s in ("voc12", "bccd") for arm in CHOICES]
    return list(dict.fromkeys(runs))


KEY: Final = Run._fields
COLUMNS: Final = (
    *KEY,
    *("steps", "map_50", "map_50_frequent", "map", *SIZES),
    *("bpr", "mean_best_iou", "initial_shapes", "shapes", "offsets_mean", "offsets_std", "seconds", "commit"),
    "by_class",  # AP@.5 of each class with boxes, as VOC computes it; the first 56 runs were made without
)


def train(run: Run, data: Path, weights: str, features: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Trains and tests; a row of the CSV but for the commit."""
    recipe, options, real = RECIPE | overrides, arm_options(run.arm), SETS[run.set]
    backbone = {
        "backbone": BACKBONE,
        "backbone_weights": weights,
        "freeze_backbone": real.frozen_stages,
        "backbone_lr_mult": recipe["backbone_lr_mult"],
    }
    detector = {
        "class_path": options["class_path"],
        "init_args": {
            **(backbone if real.pretrained else {}),
            "width": recipe["width"],
            "prior_images": recipe["prior_images"],
            "objectness_init": recipe["objectness_init"],
            **options["detector"],
        },
    }
    num = run.num if run.start in ("kmeans", "identical") else None
    shapes = {"lr_mult": recipe["lr_mult"]} | options["anchors"]
    anchors = AnchorOptions(init=STARTS[run.start], num=num, **shapes)
    schedules = [
        kind(**{**options[name], "steps": WARM_UP_SHARE if options[name]["steps"] else 0})
        for name, kind in (("soft_assignment", SoftAssignment), ("clustering", ClusteringDecay))
    ]
    trained = train_and_test(real, data, run.seed, detector, anchors, recipe, schedules, features)
    offsets = positive_offsets(trained.task, trained.module)
    own = {"offsets_mean": float(offsets.mean()), "offsets_std": float(offsets.std())}
    return run._asdict() | trained.columns() | own


def positive_offsets(task: Any, module: Any) -> Tensor:
    """(N, 2) Δw, Δh that the network predicts for the assigned anchors of the test boxes."""
    found, network = [], task.detector.network.eval()
    with torch.no_grad():
        for batch in module.test_dataloader():
            predictions = network(module.on_after_batch_transfer(batch, 0).images)
            raw, log_wh = predictions.raw, task.shapes.log_wh
            grid = raw.shape[-2:]
            zero = torch.zeros(())
            assigned = assign(log_wh, batch.boxes_xyxy, batch.mask, grid, predictions.stride, zero, distance="iou")
            image, box = batch.mask.nonzero().T
            anchor, cell = assigned.delta[image, box].argmax(1), assigned.cell[image, box]
            found.append(raw.flatten(3)[image, anchor, 2:4, cell])
    return torch.cat(found)
