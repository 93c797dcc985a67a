"""The paper's method; knows no detector."""

from anchor_lightning.anchors.assignment import assign, assign_levels, critical_temperature
from anchor_lightning.anchors.initialization import (
    AnchorOptions,
    anchor_options,
    identical_shapes,
    initial_shapes,
    num_shapes,
    split_levels,
)
from anchor_lightning.anchors.iou import best_iou, mean_best_iou, shape_iou
from anchor_lightning.anchors.losses import clustering_loss, wh_loss, xy_loss
from anchor_lightning.anchors.schedules import clustering_weight_at, learning_rate_at, temperature_at
from anchor_lightning.anchors.shapes import AnchorShapes

__all__ = [
    "AnchorOptions",
    "AnchorShapes",
    "anchor_options",
    "assign",
    "assign_levels",
    "best_iou",
    "clustering_loss",
    "clustering_weight_at",
    "critical_temperature",
    "identical_shapes",
    "initial_shapes",
    "learning_rate_at",
    "mean_best_iou",
    "num_shapes",
    "shape_iou",
    "split_levels",
    "temperature_at",
    "wh_loss",
    "xy_loss",
]
