"""Average precision as Pascal VOC and COCO define it, updated per batch, computed once, exact across ranks."""

from anchor_lightning.metrics.coco import COCOResult, coco_average_precision
from anchor_lightning.metrics.evaluator import DetectionEvaluator
from anchor_lightning.metrics.voc import VOCResult, voc_average_precision

__all__ = [
    "COCOResult",
    "DetectionEvaluator",
    "VOCResult",
    "coco_average_precision",
    "voc_average_precision",
]
