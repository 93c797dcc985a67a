"""Writes what `predict` finds as a COCO results file."""

from __future__ import annotations

import json
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from anchor_lightning.metrics.coco import coco_results
from anchor_lightning.structures import Detections
from anchor_lightning.training.files import atomic_files, run_folder


class PredictionWriter(Callback):
    """Writer of the detections of all ranks as COCO results, `predictions.json` in the run folder, by image id."""

    def __init__(self) -> None:
        self._found: dict[int, Detections] = {}  # as tensors: as rows, COCO's test images would take gigabytes

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any, **__: Any
    ) -> None:
        """Keeps the batch's detections."""
        for image_id, found in zip(outputs[0].tolist(), outputs[1], strict=True):
            self._found[image_id] = Detections(**{name: value.cpu() for name, value in vars(found).items()})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers and writes the file."""
        task: Any = pl_module
        shards: list[Any] = [self._found]
        if trainer.world_size > 1:
            shards = [None] * trainer.world_size
            dist.gather_object(self._found, shards if trainer.is_global_zero else None, dst=0)
        if trainer.is_global_zero and (folder := run_folder(trainer)) is not None:
            merged = {image_id: found for shard in shards for image_id, found in shard.items()}
            category_ids = getattr(task.data, "category_ids", None) or list(range(1, task.data.num_classes + 1))
            by_image = (coco_results(image_id, merged[image_id], category_ids) for image_id in sorted(merged))
            rows = (row for of_image in by_image for row in of_image)
            with atomic_files(path := folder / "predictions.json") as (partial,), partial.open("w") as file:
                file.write("[")
                file.writelines(",\n" * (index > 0) + json.dumps(row) for index, row in enumerate(rows))
                file.write("]\n")
            rank_zero_info(f"Wrote the detections of {len(merged)} images to {path}")
        self._found = {}
