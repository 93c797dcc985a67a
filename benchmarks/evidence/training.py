"""What the grids of the evidence share: one training with its test, and the columns that say how it ended."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cache import read_features, with_features
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from sets import RealSet
from torch import Tensor

from anchor_lightning import DetectionTask
from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.data import DetectionDataModule
from anchor_lightning.fitting.score import score_shapes
from anchor_lightning.structures import Detections

MIN_BOXES = 50  # of a class in the reported split, for `map_50_frequent`
SIZES = ("map_50_small", "map_50_medium", "map_50_large")


class KeepDetections(Callback):
    """Keeps what the test finds, by image, in pixels of the stored images."""

    detections: dict[int, Detections]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the detections before the task drops them."""
        task: Any = pl_module
        self.detections = task.evaluation.detections


@dataclass
class Trained:
    """A training that was tested.

    Args:
        task: The trained detector.
        module: Its data.
        steps: Optimizer steps.
        metrics: Of the test, as the task logs them.
        detections: Of the test images by id, in pixels of the stored images.
        seconds: From the start to the end of the test.
    """

    task: DetectionTask
    module: DetectionDataModule
    steps: int
    metrics: dict[str, float]
    detections: dict[int, Detections]
    seconds: int

    def columns(self) -> dict[str, Any]:
        """The columns that all grids have, but for the key and the commit."""
        module, shapes = self.module, self.task.shapes
        frequent, present = classes_of(module)
        by_class = self.by_class(frequent)
        score = score_shapes(module.train_box_shapes(), shapes.wh)
        return {
            "steps": self.steps,
            **{name: self.metrics[f"test/{name}"] for name in ("map", "map_50", *SIZES)},
            "map_50_frequent": sum(by_class.values()) / len(by_class) if by_class else float("nan"),
            "bpr": score.recall_ratio,
            "mean_best_iou": score.mean_best_iou,
            "initial_shapes": shapes_text(shapes.initial_wh, shapes.num_per_level),
            "shapes": shapes_text(shapes.wh, shapes.num_per_level),
            "seconds": self.seconds,
            "by_class": "; ".join(f"{name} {value:.4f}" for name, value in self.by_class(present).items()),
        }

    def by_class(self, names: Sequence[str]) -> dict[str, float]:
        """AP@.5 of classes, as VOC computes it."""
        return {name: self.metrics[f"test/ap_voc/{name}"] for name in names}


def train_and_test(
    real: RealSet,
    data: Path,
    seed: int,
    detector: dict[str, Any],
    anchors: AnchorOptions,
    recipe: dict[str, Any],
    callbacks: Sequence[Callback],
    features: Path | None,
) -> Trained:
    """Trains on a set and tests.

    Args:
        real: The set.
        data: Folder that holds the sets.
        seed: Of weights and data.
        detector: `class_path` and `init_args`.
        anchors: Start and learning of the shapes.
        recipe: `learning_rate`, `warm_up`, `drop_at`, `clip`, and `steps` where they are not the set's.
        callbacks: Schedules of the warm-ups.
        features: Folder of the features where the backbone is frozen; None trains on the images.
    """
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "anchor_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    started = time.time()
    steps, rate = int(recipe.get("steps", real.steps)), recipe["learning_rate"]
    seed_everything(seed, verbose=False)
    module = real.module(data, seed)
    task = DetectionTask(
        num_classes=module.num_classes,
        class_names=module.class_names,
        detector=detector,
        anchors=anchors,
        learning_rate={0: rate / 10, recipe["warm_up"]: rate, int(steps * recipe["drop_at"]): rate / 10},
    )
    if features is not None:
        module = with_features(module, features)
        read_features(task.detector, real.strides)
    keep = KeepDetections()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        precision=real.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        gradient_clip_val=recipe["clip"],
        callbacks=[*callbacks, keep],
    )
    trainer.fit(task, datamodule=module)
    (metrics,) = trainer.test(task, datamodule=module, verbose=False)
    return Trained(task, module, steps, dict(metrics), keep.detections, round(time.time() - started))


def classes_of(module: DetectionDataModule) -> tuple[list[str], list[str]]:
    """The classes with `MIN_BOXES` in the reported split, and those with any."""
    labels = [label for truth in module.ground_truth("test") for label in truth.labels[~truth.ignore].tolist()]
    counts = {name: labels.count(index) for index, name in enumerate(module.class_names)}
    return [n for n, count in counts.items() if count >= MIN_BOXES], [n for n, count in counts.items() if count]


def shapes_text(wh: Tensor, num_per_level: Sequence[int]) -> str:
    """`WxH` in pixels, the smallest of a level first; a bar between levels."""
    levels = [sorted(level.tolist(), key=lambda s: s[0] * s[1]) for level in wh.split(list(num_per_level))]
    return " | ".join(" ".join(f"{w:.1f}x{h:.1f}" for w, h in level) for level in levels)
