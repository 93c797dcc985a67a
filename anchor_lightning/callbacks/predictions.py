"""What the detector finds: pictures of a few validation images, and the results file of `predict`."""

from __future__ import annotations

import json
from collections.abc import Container
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.errors import UserError
from anchor_lightning.metrics.coco import coco_results
from anchor_lightning.structures import Detections
from anchor_lightning.training.files import atomic_files, run_folder
from anchor_lightning.visualization.detections import (
    PLAIN,
    best_detections,
    contact_sheet,
    draw_detections,
    resize,
    rounded_down,
    save_sheet,
    scale_detections,
    strip,
)
from anchor_lightning.visualization.palette import CLASS_COLOURS

# Longer side in pixels: at most, for W&B; in the sheet, so that its text can be read; that the legend's letters suit.
MAX_SIDE, SHEET_SIDE, LEGEND_SIDE = 1280, 480, 640


class Picture(NamedTuple):
    """A validation image, (H, W, 3) uint8 RGB in the size that it is shown in, and its record."""

    image: np.ndarray
    record: ImageRecord

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the image per pixel in x and y of the annotations; a reader may decode smaller than these."""
        return self.image.shape[1] / self.record.width, self.image.shape[0] / self.record.height


class PredictionPictures(Callback):
    """Pictures of the detections on the first validation images (of rank 0), whenever a validation ends.

    Weights & Biases gets boxes that can be switched on and off, TensorBoard and the run folder (`predictions.png`) a
    sheet with the boxes drawn, the ground truth in dashes.

    Args:
        num_images: How many images; 0 is off.
        score_threshold: Detections that score less are not shown.

    Raises:
        UserError: The number is negative, or the threshold lies outside [0, 1].
    """

    def __init__(self, num_images: int = 8, score_threshold: float = 0.3) -> None:
        if num_images < 0:
            raise UserError(f"must be 0 or more, got {num_images}", "num_images")
        if not 0 <= score_threshold <= 1:
            raise UserError(f"must be in [0, 1], got {score_threshold}", "score_threshold")
        self.num_images, self.score_threshold = num_images, score_threshold
        self._pictures: dict[int, Picture] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws and logs; callbacks come before the task here, whose evaluation still holds the detections."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        folder, task = run_folder(trainer), cast(Any, pl_module)
        # The evaluation goes through a split in its order.
        detections: dict[int, Detections] = dict(islice(task.evaluation.detections.items(), self.num_images))
        if folder is None or not detections:
            return
        if detections.keys() - self._pictures.keys():  # all of them at the first validation, then none
            self._load(trainer, detections)
        pictures = [self._pictures[image_id] for image_id in detections]
        found = [best_detections(of_image, self.score_threshold) for of_image in detections.values()]
        sheet = self._sheet(pictures, list(detections.values()), found, task.class_names)
        with atomic_files(folder / "predictions.png") as (path,):
            save_sheet(sheet, path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "val/predictions", sheet, global_step=trainer.global_step, dataformats="HWC"
                )
            elif isinstance(logger, WandbLogger):
                logger.log_image(
                    "val/predictions",
                    [picture.image for picture in pictures],
                    step=trainer.global_step,  # Lightning makes it `trainer/global_step`, not W&B's own step
                    caption=[picture.record.name for picture in pictures],
                    boxes=[wandb_boxes(*pair, task.class_names) for pair in zip(pictures, found, strict=True)],
                )

    def _load(self, trainer: Trainer, ids: Container[int]) -> None:
        dataset: Any = trainer.val_dataloaders.dataset  # type: ignore[union-attr]  # the loader of our data modules
        self._pictures = {}
        for index, record in enumerate(dataset.records):
            if record.ground_truth.image_id in ids:
                image = dataset.load(index)
                image = resize(image, min(MAX_SIDE, max(image.shape[:2])))
                self._pictures[record.ground_truth.image_id] = Picture(image, record)

    def _sheet(
        self, pictures: list[Picture], everything: list[Detections], found: list[Detections], class_names: list[str]
    ) -> np.ndarray:
        tiles = []
        for picture, of_image, shown in zip(pictures, everything, found, strict=True):
            enlarged = picture._replace(image=resize(picture.image, SHEET_SIDE))
            drawn = draw_detections(
                enlarged.image,
                scale_detections(shown, enlarged.scale),
                class_names,
                ground_truth_xyxy=picture.record.ground_truth.boxes_xyxy * (enlarged.scale * 2),
                ground_truth_labels=picture.record.ground_truth.labels.tolist(),
            )
            lines = [[(picture.record.name, PLAIN)], [(self._summary(of_image, len(shown.scores)), PLAIN)]]
            tiles.append(np.vstack([drawn, strip(drawn.shape[1], lines, SHEET_SIDE)]))
        sheet = contact_sheet(tiles)
        frames = f"solid: detected, class and score ({self.score_threshold:g} or more)"
        legend = [("dashed: ground truth, class on white", PLAIN), (frames, PLAIN)]
        labels = sorted({label for shown in found for label in shown.labels.tolist()})
        legend += [(class_names[label], CLASS_COLOURS[label % len(CLASS_COLOURS)]) for label in labels]
        return np.vstack([sheet, strip(sheet.shape[1], [legend], LEGEND_SIDE)])

    def _summary(self, everything: Detections, num_found: int) -> str:
        if num_found:
            return f"{num_found} detection{'s' * (num_found > 1)}"
        best = f" (best {rounded_down(float(everything.scores.max()))})" if len(everything.scores) else ""
        return f"no detection of {self.score_threshold:g} or more{best}"


def wandb_boxes(picture: Picture, detections: Detections, class_names: list[str]) -> dict[str, Any]:
    """The boxes of a picture as `wandb.Image` takes them, in groups `predictions` and `ground_truth`."""

    def box(box_xyxy: list[float], label: int, addition: str) -> dict[str, Any]:
        corners = [side * factor for side, factor in zip(box_xyxy, picture.scale * 2, strict=True)]
        return {
            "position": dict(zip(("minX", "minY", "maxX", "maxY"), corners, strict=True)),
            "domain": "pixel",
            "class_id": label,
            "box_caption": class_names[label] + addition,
        }

    found, ground_truth = detections, picture.record.ground_truth
    columns = (found.boxes_xyxy, found.labels, found.scores, found.anchors)
    predictions = [
        box(xyxy, label, f" {score:.2f}" + f" #{anchor}" * (anchor >= 0)) | {"scores": {"score": score}}
        for xyxy, label, score, anchor in zip(*(column.tolist() for column in columns), strict=True)
    ]
    stored = (ground_truth.boxes_xyxy, ground_truth.labels, ground_truth.ignore)
    annotated = [
        box(xyxy, label, " (ignored)" * ignore)
        for xyxy, label, ignore in zip(*(column.tolist() for column in stored), strict=True)
    ]
    names = dict(enumerate(class_names))
    groups = {"predictions": predictions, "ground_truth": annotated}
    return {group: {"box_data": boxes, "class_labels": names} for group, boxes in groups.items()}


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
