"""One pass over a split: detections and a first stage's proposals go in, metrics come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from anchor_lightning.metrics import (
    COCOMeanAveragePrecision,
    DetectionConfusionMatrix,
    ProposalRecall,
    VOCMeanAveragePrecision,
)
from anchor_lightning.structures import DetectionBatch, Detections, GroundTruth


@dataclass(frozen=True)
class EvaluationDetails:
    """What an evaluation shows beside its numbers.

    Args:
        precision_50: (C, 101), see `COCOResult`; NaN for a class without ground truth.
        scores_50: (C, 101) alike.
        confusion: (C + 1, C + 1) int64 numbers of boxes, see `DetectionConfusionMatrix`.
        score_threshold: Of the confusion matrix.
        iou_threshold: Of the confusion matrix.
    """

    precision_50: np.ndarray
    scores_50: np.ndarray
    confusion: np.ndarray
    score_threshold: float
    iou_threshold: float


class Evaluation:
    """The metrics of a split whose ground truth is known, computed once over all ranks.

    Args:
        ground_truths: The ground truth of the whole split.
        class_names: Names of the classes.
        two_stage: Whether the detector has a first stage whose proposals are measured as well.
        detailed: Whether `details` are computed as well.

    Attributes:
        detections: By image id, what this process has been given.
        details: Precision by recall and the confusion matrix; set by `compute`.
    """

    def __init__(
        self, ground_truths: Sequence[GroundTruth], class_names: list[str], two_stage: bool, detailed: bool = False
    ) -> None:
        self.detections: dict[int, Detections] = {}
        self._ground_truths = {ground_truth.image_id: ground_truth for ground_truth in ground_truths}
        self._average_precision = MetricCollection(  # keeps the states of the two once
            [
                COCOMeanAveragePrecision(class_names, per_class=True, curves=detailed),
                VOCMeanAveragePrecision(class_names, per_class=True),
            ]
        )
        self.details: EvaluationDetails | None = None
        self._confusion = DetectionConfusionMatrix(len(class_names)) if detailed else None
        self._proposal_recall = ProposalRecall() if two_stage else None

    def update(self, batch: DetectionBatch, detections: list[Detections], proposals: Sequence[Tensor]) -> None:
        """Takes what was found in a batch.

        Args:
            batch: The images; none on a rank without images of its own.
            detections: Of each image, in pixels of the stored image.
            proposals: Of each image of a two-stage detector, (P, 4) boxes in pixels of the network input, best first.

        Raises:
            UserError: A box or score is not finite.
        """
        image_ids: list[int] = batch.image_ids.tolist()
        target = [
            {"image_id": t.image_id, "boxes": t.boxes_xyxy, "labels": t.labels, "difficult": t.ignore, "area": t.area}
            for t in (self._ground_truths[image_id] for image_id in image_ids)
        ]
        found = [Detections(*(getattr(d, field.name).cpu() for field in fields(d))) for d in detections]
        preds = [{"boxes": d.boxes_xyxy, "scores": d.scores, "labels": d.labels} for d in found]
        self._average_precision.update(preds, target)
        if self._confusion is not None:
            self._confusion.update(preds, target)
        for image_id, d in zip(image_ids, found, strict=True):
            self.detections.setdefault(image_id, d)
        if self._proposal_recall is not None and len(batch):
            boxes = zip(proposals, scales_to_stored(batch), strict=True)
            # Scores that say the order; torchvision does not hand on their own.
            ranked = [{"boxes": box * scale, "scores": torch.arange(len(box), 0, -1)} for box, scale in boxes]
            self._proposal_recall.update(ranked, target)

    def compute(self) -> dict[str, float]:
        """The metrics by name, those of a class as `ap/CLASS`; all ranks have to call it.

        Those of a first stage have `rpn_` before their names.
        """
        metrics = self._average_precision.compute()
        if self._confusion is not None:
            self.details = EvaluationDetails(
                precision_50=metrics.pop("precision_50").cpu().numpy(),
                scores_50=metrics.pop("scores_50").cpu().numpy(),
                confusion=self._confusion.compute().cpu().numpy(),
                score_threshold=self._confusion.score_threshold,
                iou_threshold=self._confusion.iou_threshold,
            )
        if self._proposal_recall is not None:
            metrics |= {f"rpn_{name}": value for name, value in self._proposal_recall.compute().items()}
        return {name: float(value) for name, value in metrics.items()}


def scales_to_stored(batch: DetectionBatch) -> Tensor:
    """(B, 4) factors from pixels of the network input to pixels of the stored images, for x, y, x, y."""
    height, width = batch.images.shape[-2:]
    return (batch.original_sizes.flip(1) / batch.original_sizes.new_tensor([width, height])).repeat(1, 2)
