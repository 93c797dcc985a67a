"""Average precision and recall as Pascal VOC and COCO define them: torchmetrics' metrics, exact across ranks."""

from anchor_lightning.metrics.coco import COCOMeanAveragePrecision, ProposalRecall
from anchor_lightning.metrics.confusion import DetectionConfusionMatrix
from anchor_lightning.metrics.voc import VOCMeanAveragePrecision

__all__ = ["COCOMeanAveragePrecision", "DetectionConfusionMatrix", "ProposalRecall", "VOCMeanAveragePrecision"]
