"""The method as the task wires it with its callbacks: numbers of a training, computed a second time in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback, Trainer

from anchor_lightning.callbacks import ClusteringDecay, SoftAssignment
from tests.helpers.tiny_training import make_data, make_task, make_trainer

SHAPES = np.array([[12.0, 30.0], [40.0, 14.0], [25.0, 25.0], [60.0, 50.0]])
START, SOFT_STEPS, CLUSTERING_STEPS = 1.5, 4, 8


class Terms(Callback):
    """Keeps the clustering term of every step, and the boxes that it was computed on."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, np.ndarray]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        wh = (batch.boxes_xyxy[..., 2:] - batch.boxes_xyxy[..., :2])[batch.mask].double().numpy()
        self.rows.append((float(outputs["terms"]["loss_clustering"]), wh))


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
    task = make_task(anchors={"init": SHAPES.tolist(), "learn": False}, distance=after, learning_rate=1e-4)
    terms = Terms()
    callbacks = [SoftAssignment(START, SOFT_STEPS), ClusteringDecay(1.0, CLUSTERING_STEPS), terms]
    make_trainer(tmp_path, max_steps=7, callbacks=callbacks).fit(task, datamodule=make_data(num_train=28))
    assert len(terms.rows) == 7
    for step, (found, boxes) in enumerate(terms.rows):
        assert found == pytest.approx(expected_clustering(step, boxes, after), rel=1e-4)
    everything = np.concatenate([boxes for _, boxes in terms.rows[SOFT_STEPS:]])
    l2 = ((np.log(everything)[:, None] - np.log(SHAPES)) ** 2).sum(-1)
    assert (iou(everything).argmax(1) != l2.argmin(1)).any(), "boxes for which the two distances differ"
