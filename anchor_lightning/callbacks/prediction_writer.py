"""Writes what `predict` finds as a COCO results file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchvision.ops import box_convert

from anchor_lightning.callbacks.anchor_logger import run_folder
from anchor_lightning.structures import Detections


class PredictionWriter(BasePredictionWriter):
    """Collects the detections of all ranks and writes `predictions.json` into the run folder, once, on rank 0."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._results: dict[int, list[dict[str, Any]]] = {}

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: tuple[Tensor, list[Detections]],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keeps the batch's detections."""
        task: Any = pl_module
        data = task.data
        category_ids = getattr(data, "category_ids", None) or list(range(1, data.num_classes + 1))
        image_ids, found = prediction
        for image_id, detections in zip(image_ids.tolist(), found, strict=True):
            self._results[image_id] = coco_results(image_id, detections, category_ids)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers and writes the file."""
        shards = [self._results]
        if trainer.world_size > 1:
            gathered: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
            dist.gather_object(self._results, gathered, dst=0)
            shards = gathered or []
        if trainer.is_global_zero and (folder := run_folder(trainer)) is not None:
            merged = {image_id: rows for shard in shards for image_id, rows in shard.items()}
            path = folder / "predictions.json"
            path.write_text(json.dumps([row for image_id in sorted(merged) for row in merged[image_id]]))
            rank_zero_info(f"Wrote the detections of {len(merged)} images to {path}")
        self._results = {}


def coco_results(image_id: int, detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of an image as COCO results: image_id, category_id, bbox [x, y, w, h] in pixels, score."""
    boxes = box_convert(detections.boxes_xyxy, "xyxy", "xywh").tolist()
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [round(side, 3) for side in box],
            "score": round(score, 6),
        }
        for box, label, score in zip(boxes, detections.labels.tolist(), detections.scores.tolist(), strict=True)
    ]
