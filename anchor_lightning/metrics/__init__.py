"""Average precision and recall as Pascal VOC and COCO define them: torchmetrics' metrics, exact across ranks."""

from anchor_lightning.metrics.coco import COCOMeanAveragePrecision, COCOResult, coco_average_precision
from anchor_lightning.metrics.proposals import ProposalRecall
from anchor_lightning.metrics.voc import VOCMeanAveragePrecision, VOCResult, voc_average_precision

__all__ = [
    "COCOMeanAveragePrecision",
    "COCOResult",
    "ProposalRecall",
    "VOCMeanAveragePrecision",
    "VOCResult",
    "coco_average_precision",
    "voc_average_precision",
]
