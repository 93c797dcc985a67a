"""Anchor shapes from boxes alone, without training a detector."""

from anchor_lightning.fitting.ascent import ascent_shapes
from anchor_lightning.fitting.fit import FitMethod, fit_shapes
from anchor_lightning.fitting.kmeans import check_distinct, kmeans_shapes
from anchor_lightning.fitting.score import AnchorScore, score_shapes
from anchor_lightning.fitting.simulate import ShapesOnlyOptions, learn_shapes

__all__ = [
    "AnchorScore",
    "FitMethod",
    "ShapesOnlyOptions",
    "ascent_shapes",
    "check_distinct",
    "fit_shapes",
    "kmeans_shapes",
    "learn_shapes",
    "score_shapes",
]
