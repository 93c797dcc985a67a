"""Writes what `predict` finds as a COCO results file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from anchor_lightning.metrics.coco import coco_results
from anchor_lightning.structures import Detections
from anchor_lightning.training.files import atomic_files
from anchor_lightning.training.run_folder import run_folder


class PredictionWriter(BasePredictionWriter):
    """Collects the detections of all ranks and writes `predictions.json` into the run folder, once, on rank 0.

    The file is what COCO's evaluation server and `COCO.loadRes` take, see `coco_results`: one row a detection, the
    images in the order of their ids, an image's detections highest score first. (Where nothing at all was found it is
    an empty list, which pycocotools' loadRes does not take.)
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._found: dict[int, Detections] = {}

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
        # As tensors: as rows, those of COCO's test images would take gigabytes.
        for image_id, found in zip(prediction[0].tolist(), prediction[1], strict=True):
            self._found[image_id] = Detections(*(getattr(found, f.name).cpu() for f in fields(found)))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers and writes the file."""
        task: Any = pl_module
        shards = [self._found]
        if trainer.world_size > 1:
            gathered: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
            dist.gather_object(self._found, gathered, dst=0)
            shards = gathered or []
        if trainer.is_global_zero and (folder := run_folder(trainer)) is not None:
            merged = {image_id: found for shard in shards for image_id, found in shard.items()}
            category_ids = getattr(task.data, "category_ids", None) or list(range(1, task.data.num_classes + 1))
            path = folder / "predictions.json"
            with atomic_files(path) as (partial,), partial.open("w") as file:
                separator = "["
                for image_id in sorted(merged):
                    for row in coco_results(image_id, merged[image_id], category_ids):
                        file.write(separator + json.dumps(row))
                        separator = ",\n"
                file.write("]\n" if separator != "[" else "[]\n")
            rank_zero_info(f"Wrote the detections of {len(merged)} images to {path}")
        self._found = {}
