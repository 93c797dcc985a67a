"""One pass over a split: detections and a first stage's proposals go in, metrics come out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anchor_lightning.metrics.evaluator import DetectionEvaluator
from anchor_lightning.metrics.proposals import ProposalRecall
from anchor_lightning.structures import DetectionBatch, Detections, GroundTruth


class Evaluation:
    """The metrics of a split, computed once over all ranks.

    Args:
        ground_truths: The whole split's annotated boxes.
        class_names: Names of the classes.
        two_stage: Whether the detector has a first stage whose proposals are measured as well.
    """

    def __init__(self, ground_truths: Sequence[GroundTruth], class_names: list[str], two_stage: bool) -> None:
        self.evaluator = DetectionEvaluator(ground_truths, class_names)
        self.proposal_recall = ProposalRecall(ground_truths) if two_stage else None

    def update(self, batch: DetectionBatch, detections: list[Detections], proposals: Sequence[Tensor]) -> None:
        """Takes what was found in a batch.

        Args:
            batch: The images; none on a rank without images of its own.
            detections: Of each image, in pixels of the stored image.
            proposals: Of each image, (P, 4) boxes in pixels of the network input, in the order of their scores; read
                only of a detector with a first stage.
        """
        self.evaluator.update(batch.image_ids, detections)
        if self.proposal_recall is not None and len(batch):
            boxes = zip(proposals, scales_to_stored(batch), strict=True)
            # In the order of their scores, which torchvision does not hand on.
            ranked = [(box * scale, torch.arange(len(box), 0, -1.0, device=box.device)) for box, scale in boxes]
            self.proposal_recall.update(batch.image_ids, ranked)

    def compute(self, per_class: bool) -> dict[str, float]:
        """The metrics by name, a first stage's with `rpn_` before it; all ranks have to call it."""
        metrics = dict(self.evaluator.compute(per_class=per_class))
        if self.proposal_recall is not None:
            metrics |= {f"rpn_{name}": value for name, value in self.proposal_recall.compute().items()}
        return metrics


def scales_to_stored(batch: DetectionBatch) -> Tensor:
    """(B, 4) factors from pixels of the network input to pixels of the stored images, for x, y, x, y."""
    height, width = batch.images.shape[-2:]
    return (batch.original_sizes.flip(1) / batch.original_sizes.new_tensor([width, height])).repeat(1, 2)
