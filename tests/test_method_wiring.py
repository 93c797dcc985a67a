"""The method as the task wires it with its callbacks: numbers of a training, computed a second time in numpy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback, Trainer, seed_everything

from anchor_lightning import DetectionTask
from anchor_lightning.callbacks import ClusteringDecay, SoftAssignment
from anchor_lightning.data import SyntheticDataModule
from anchor_lightning.detectors import YOLOv2

SHAPES = np.array([[12.0, 30.0], [40.0, 14.0], [25.0, 25.0], [60.0, 50.0]])
START, SOFT_STEPS, CLUSTERING_STEPS = 1.5, 4, 8


class Terms(Callback):
    """Keeps the clustering term of every step, and the boxes that it was computed on."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, np.ndarray]] = []
        self._step = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        wh = (batch.boxes_xyxy[..., 2:] - batch.boxes_xyxy[..., :2])[batch.mask].double().numpy()
        self.rows.append((self._step, float(outputs["terms"]["loss_clustering"]), wh))


def iou(boxes: np.ndarray) -> np.ndarray:
    """(N, A) IoU of boxes and shapes that share their centre."""
    shared = np.minimum(boxes[:, None], SHAPES).prod(-1)
    return shared / (boxes.prod(-1)[:, None] + SHAPES.prod(-1) - shared)


def expected_clustering(step: int, boxes: np.ndarray, after: str) -> float:
    """Eq. 10-12 by hand: λ Σ δ ||log b - log s||² / 2 N with T and λ of the step."""
    distance = ((np.log(boxes)[:, None] - np.log(SHAPES)) ** 2).sum(-1)  # (N, A)
    temperature = START * max(0, 1 - step / SOFT_STEPS)
    if temperature > 0:
        delta = np.exp(-distance / temperature)
        delta /= delta.sum(1, keepdims=True)
    else:
        nearest = distance.argmin(1) if after == "l2" else iou(boxes).argmax(1)
        delta = np.eye(len(SHAPES))[nearest]
    weight = max(0, 1 - step / CLUSTERING_STEPS)
    return float(weight * (delta * distance).sum() / (2 * len(boxes)))


@pytest.mark.parametrize("after", ["iou", "l2"])
def test_temperature_distance_and_clustering_weight_reach_the_loss(tmp_path: Path, after: Any) -> None:
    seed_everything(0, verbose=False)
    task = DetectionTask(
        num_classes=4,
        detector=partial(YOLOv2, width=0.1, prior_images=0),
        anchors={"init": SHAPES.tolist(), "learn": False},
        distance=after,
        learning_rate=1e-4,
    )
    terms = Terms()
    callbacks = [SoftAssignment(START, SOFT_STEPS), ClusteringDecay(1.0, CLUSTERING_STEPS), terms]
    trainer = Trainer(
        max_steps=7,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
        callbacks=callbacks,
    )
    data = SyntheticDataModule(num_train=28, num_val=4, batch_size=4, image_size=64, num_workers=0, seed=0)
    trainer.fit(task, datamodule=data)
    assert [step for step, _, _ in terms.rows] == list(range(7))
    for step, found, boxes in terms.rows:
        assert found == pytest.approx(expected_clustering(step, boxes, after), rel=1e-4)
    everything = np.concatenate([boxes for step, _, boxes in terms.rows if step >= SOFT_STEPS])
    l2 = ((np.log(everything)[:, None] - np.log(SHAPES)) ** 2).sum(-1)
    assert (iou(everything).argmax(1) != l2.argmin(1)).any(), "boxes for which the two distances differ"
