"""Shows what the detector finds on the same few validation images, validation after validation."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from anchor_lightning.errors import UserError
from anchor_lightning.structures import Detections, GroundTruth
from anchor_lightning.training.files import atomic_files
from anchor_lightning.training.run_folder import run_folder
from anchor_lightning.visualization.detections import (
    best_detections,
    check_drawable,
    contact_sheet,
    draw_detections,
    resize,
    rounded_down,
    save_picture,
    scale_detections,
)
from anchor_lightning.visualization.lettering import COLOURS, PLAIN, Text, strip

KEY: Final = "val/predictions"
MAX_SIDE: Final = 1280
"""Pixels of the longer side above which an image is shown smaller: W&B gets every image at every validation."""
SHEET_SIDE: Final = 480
"""Pixels of the longer side of an image in the sheet; smaller ones are enlarged, so that the text can be read."""
LEGEND_SIDE: Final = 640
"""The sheet's legend has the letters of an image with this longer side."""


class Picture(NamedTuple):
    """A validation image as it is shown.

    Args:
        name: The data set's name of the image.
        image: (H, W, 3) uint8 RGB.
        scale: Pixels of `image` per pixel of the stored image, in x and y.
        ground_truth: Its boxes, in pixels of the stored image.
    """

    name: str
    image: np.ndarray
    scale: tuple[float, float]
    ground_truth: GroundTruth


class PredictionPictures(Callback):
    """Draws the detections on the first validation images whenever a validation ends.

    The boxes are those that the metrics are computed from, less the low scores. Weights & Biases gets the images with
    boxes that can be switched on and off (predictions and ground truth), TensorBoard and the run folder
    (`predictions.png`, of the last validation) a sheet with the boxes drawn, the ground truth in dashes; below each
    image stands how many were found, or the best score where none was, and below all of them what the frames mean.
    With several processes the images are the first that rank 0 evaluates.

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
        folder = run_folder(trainer) if trainer.is_global_zero else None
        loggers = [x for x in trainer.loggers if isinstance(x, WandbLogger | TensorBoardLogger)]
        if not trainer.is_global_zero or trainer.sanity_checking or not (folder or loggers):
            return
        task: Any = pl_module
        everything: dict[int, Detections] = task.evaluation.detections
        # The evaluation goes through a split in its order.
        ids = list(everything)[: self.num_images]
        if not ids:
            return
        self._load(trainer, ids)
        shown = {i: everything[i] for i in ids}
        found = {i: best_detections(shown[i], self.score_threshold) for i in ids}
        sheet = self._sheet(shown, found, task.class_names)
        if folder is not None:
            with atomic_files(folder / "predictions.png") as (path,):
                save_picture(sheet, path)
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(KEY, sheet, global_step=trainer.global_step, dataformats="HWC")
            else:
                pictures = [self._pictures[i] for i in ids]
                logger.log_image(
                    KEY,
                    [picture.image for picture in pictures],
                    step=trainer.global_step,  # Lightning makes it `trainer/global_step`, not W&B's own step
                    caption=[picture.name for picture in pictures],
                    boxes=[wandb_boxes(self._pictures[i], found[i], task.class_names) for i in ids],
                )

    def _load(self, trainer: Trainer, ids: list[int]) -> None:
        """Reads the images that are not at hand yet: all of them at the first validation, then none."""
        missing = set(ids) - self._pictures.keys()
        if not missing:
            return
        self._pictures = {}
        dataset: Any = trainer.val_dataloaders.dataset  # type: ignore[union-attr]  # the loader of our data modules
        for index, record in enumerate(dataset.records):
            if record.ground_truth.image_id in ids:
                stored = dataset.load(index)
                image = resize(stored, min(MAX_SIDE, max(stored.shape[:2])))
                # By the size in the annotations, in which detections are: a reader may decode smaller.
                scale = (image.shape[1] / record.width, image.shape[0] / record.height)
                self._pictures[record.ground_truth.image_id] = Picture(record.name, image, scale, record.ground_truth)

    def _sheet(
        self, everything: dict[int, Detections], found: dict[int, Detections], class_names: list[str]
    ) -> np.ndarray:
        tiles = []
        for image_id, detections in found.items():
            picture = self._pictures[image_id]
            image = resize(picture.image, SHEET_SIDE)
            enlarged = [new / old for new, old in zip(image.shape[1::-1], picture.image.shape[1::-1], strict=False)]
            scale = (picture.scale[0] * enlarged[0], picture.scale[1] * enlarged[1])
            drawn = draw_detections(
                image,
                scale_detections(detections, scale),
                class_names,
                ground_truth_xyxy=picture.ground_truth.boxes_xyxy * (scale * 2),
                ground_truth_labels=picture.ground_truth.labels.tolist(),
            )
            summary = _summary(everything[image_id], detections, self.score_threshold)
            lines = [[(picture.name, PLAIN)], [(summary, PLAIN)]]
            tiles.append(np.vstack([drawn, strip(drawn.shape[1], lines, SHEET_SIDE)]))
        sheet = contact_sheet(tiles)
        return np.vstack([sheet, strip(sheet.shape[1], [self._legend(found, class_names)], LEGEND_SIDE)])

    def _legend(self, found: dict[int, Detections], class_names: list[str]) -> list[Text]:
        """What the frames mean, and the classes that were found in their colours."""
        labels = sorted({label for detections in found.values() for label in detections.labels.tolist()})
        detected = f"solid: detected, class and score ({self.score_threshold:g} or more)"
        classes = [(class_names[label], COLOURS[label % len(COLOURS)]) for label in labels]
        return [("dashed: ground truth, class on white", PLAIN), (detected, PLAIN), *classes]


def _summary(everything: Detections, found: Detections, threshold: float) -> str:
    """How many boxes were found in an image, or the best score where none was."""
    if len(found.scores):
        return f"{len(found.scores)} detection{'s' * (len(found.scores) > 1)}"
    best = f" (best {rounded_down(float(everything.scores.max()))})" if len(everything.scores) else ""
    return f"no detection of {threshold:g} or more{best}"


def wandb_boxes(picture: Picture, detections: Detections, class_names: list[str]) -> dict[str, Any]:
    """The boxes of an image as `wandb.Image` takes them: groups `predictions` and `ground_truth`, plain numbers.

    Args:
        picture: The image; boxes of its ground truth that evaluation ignores (difficult, crowd) are named so.
        detections: N boxes in pixels of the stored image.
        class_names: C names; position is the label.

    Raises:
        ValueError: A box or score is not finite, which W&B would take and not show, or a label has no name.
    """
    check_drawable(detections, len(class_names))
    ground_truth = picture.ground_truth
    rows = zip(
        detections.boxes_xyxy.tolist(),
        detections.scores.tolist(),
        detections.labels.tolist(),
        detections.anchors.tolist(),
        strict=True,
    )
    predictions = [
        _wandb_box(
            box, label, picture.scale, f"{class_names[label]} {score:.2f}" + f" #{anchor}" * (anchor >= 0), score
        )
        for box, score, label, anchor in rows
    ]
    ground_truths = [
        _wandb_box(box, label, picture.scale, class_names[label] + " (ignored)" * ignore)
        for box, label, ignore in zip(
            ground_truth.boxes_xyxy.tolist(), ground_truth.labels.tolist(), ground_truth.ignore.tolist(), strict=True
        )
    ]
    names = dict(enumerate(class_names))
    return {
        "predictions": {"box_data": predictions, "class_labels": names},
        "ground_truth": {"box_data": ground_truths, "class_labels": names},
    }


def _wandb_box(
    box_xyxy: list[float], label: int, scale: tuple[float, float], caption: str, score: float | None = None
) -> dict[str, Any]:
    corners = [side * factor for side, factor in zip(box_xyxy, scale * 2, strict=True)]
    box: dict[str, Any] = {
        "position": dict(zip(("minX", "minY", "maxX", "maxY"), corners, strict=True)),
        "domain": "pixel",
        "class_id": label,
        "box_caption": caption,
    }
    return box if score is None else box | {"scores": {"score": score}}
