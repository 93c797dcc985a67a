"""Average precision and recall as Pascal VOC and COCO define them, updated per batch, exact across ranks."""

from anchor_lightning.metrics.coco import COCOResult, coco_average_precision
from anchor_lightning.metrics.evaluator import DetectionEvaluator
from anchor_lightning.metrics.proposals import ProposalRecall
from anchor_lightning.metrics.voc import VOCResult, voc_average_precision

__all__ = [
    "COCOResult",
    "DetectionEvaluator",
    "ProposalRecall",
    "VOCResult",
    "coco_average_precision",
    "voc_average_precision",
]
