"""Callbacks: warm-up schedules, records of shapes and predictions, progress, anchors for other people's detectors."""

from anchor_lightning.callbacks.anchor_logger import AnchorLogger
from anchor_lightning.callbacks.evaluation_files import EvaluationFiles
from anchor_lightning.callbacks.learn_anchors import LearnAnchors
from anchor_lightning.callbacks.predictions import PredictionPictures, PredictionWriter
from anchor_lightning.callbacks.progress import StepProgressBar, ValidationSummary
from anchor_lightning.callbacks.schedules import ClusteringDecay, SoftAssignment
from anchor_lightning.training.best_checkpoint import BestCheckpoint
from anchor_lightning.training.checkpoints import RunCheckpoint

__all__ = [
    "AnchorLogger",
    "BestCheckpoint",
    "ClusteringDecay",
    "EvaluationFiles",
    "LearnAnchors",
    "PredictionPictures",
    "PredictionWriter",
    "RunCheckpoint",
    "SoftAssignment",
    "StepProgressBar",
    "ValidationSummary",
]
