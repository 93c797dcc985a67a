"""The paper's method; knows no detector."""

from anchor_lightning.anchors.assignment import assign, critical_temperature
from anchor_lightning.anchors.initialization import (
    AnchorOptions,
    anchor_options,
    check_distinct,
    initial_shapes,
    kmeans_shapes,
    mean_best_iou,
    num_shapes,
)
from anchor_lightning.anchors.losses import clustering_loss, wh_loss, xy_loss
from anchor_lightning.anchors.schedules import clustering_weight_at, learning_rate_at, temperature_at
from anchor_lightning.anchors.shapes import AnchorShapes

__all__ = [
    "AnchorOptions",
    "AnchorShapes",
    "anchor_options",
    "assign",
    "check_distinct",
    "clustering_loss",
    "clustering_weight_at",
    "critical_temperature",
    "initial_shapes",
    "kmeans_shapes",
    "learning_rate_at",
    "mean_best_iou",
    "num_shapes",
    "temperature_at",
    "wh_loss",
    "xy_loss",
]
