"""The interface between a detector and the rest of the project, and building one from its configuration."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from anchor_lightning.anchors import AnchorOptions, AnchorShapes
from anchor_lightning.errors import UserError
from anchor_lightning.structures import DetectionBatch, DetectorOutput, StepOptions


class Detector(nn.Module, ABC):
    """Base class of the detectors: a network with anchor shapes of its own, which it trains and detects with.

    A subclass's constructor takes first what the task hands in, `num_classes`, `anchors` and `image_size` as of
    `build_detector`, then options of its own with defaults (`model.detector.NAME` on the command line).
    """

    supports_soft_assignment: ClassVar[bool] = False  # whether the loss reads the temperature and the distance
    is_soft_assignment_measured: ClassVar[bool] = True  # whether the project has evidence on it; else a run warns
    has_fixed_number: ClassVar[bool] = False  # whether `anchors.num` cannot change its number of shapes
    has_proposals: ClassVar[bool] = False  # Whether a first stage proposes boxes, which `detect` then returns as well

    @property
    @abstractmethod
    def shapes(self) -> AnchorShapes:
        """The anchor shapes, a sub-module of the detector: the state dict holds `log_wh` once."""

    @property
    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Options, by name, on which it depends whether weights fit: a checkpoint must have been made with the same."""

    @property
    def is_trained(self) -> bool:
        """Whether its options name weights of the whole network, so that it can be evaluated without a checkpoint."""
        return False

    @property
    def lr_factors(self) -> dict[str, tuple[nn.Module, float]]:
        """The parts that have parameter groups of their own, by name, with the factor on their learning rate."""
        return {}

    @abstractmethod
    def training_losses(self, batch: DetectionBatch, step: StepOptions) -> dict[str, Tensor]:
        """The scalar terms of the loss by name, to be summed; `loss_clustering` is λ times Eq. 11-12's term.

        Args:
            batch: B images in [0, 1] with their ground truth.
            step: What the loss depends on besides.
        """

    @abstractmethod
    def detect(self, images: Tensor, score_threshold: float) -> DetectorOutput:
        """The detections, and the proposals of a first stage, in pixels of the network input.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            score_threshold: Detections that score up to this are dropped.

        Raises:
            NonFiniteOutputError: The network's output is not finite.
        """

    @abstractmethod
    def load_pretrained(self) -> str:
        """Loads the pretrained weights that the options name, in place, and returns a sentence on them.

        Raises:
            UserError: A file is missing or does not fit.
        """

    def check(self) -> None:
        """Raises a `UserError` where what the trainer has made of the modules no longer computes the same."""
        return

    def setup(self) -> None:
        """Prepares the network for a run (compilation); called once, before its first batch."""


DetectorFactory = Callable[[int, AnchorOptions, list[int] | None], Detector]  # a class, options may be bound to it


def detector_config(detector: DetectorFactory | Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a detector in plain types, as in YAML files and checkpoints: `class_path` and `init_args`.

    Raises:
        UserError: It is no subclass of `Detector`, no `functools.partial` of one and no such configuration.
    """
    if isinstance(detector, Mapping) and "class_path" in detector:
        return {"class_path": detector["class_path"], "init_args": dict(detector.get("init_args") or {})}
    factory, options = (detector.func, detector.keywords) if isinstance(detector, partial) else (detector, {})
    if isinstance(factory, type) and issubclass(factory, Detector):
        return {"class_path": f"{factory.__module__}.{factory.__qualname__}", "init_args": dict(options)}
    raise UserError(
        f"{detector!r}: give a Detector class, functools.partial of one, or a dict with class_path and init_args",
        argument="detector",
    )


def build_detector(
    config: Mapping[str, Any], num_classes: int, anchors: AnchorOptions, image_size: Sequence[int] | None
) -> Detector:
    """The detector of a configuration, with random weights.

    Args:
        config: See `detector_config`; a `class_path` without a module is one of this package's.
        num_classes: C >= 1.
        anchors: Start of the shapes.
        image_size: Height and width of the network input in training, if known.

    Raises:
        UserError: There is no such class, or an option is unknown or out of range.
    """
    module, _, name = str(config["class_path"]).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module or "anchor_lightning.detectors"), name)
    except (ImportError, AttributeError):
        raise UserError(f"{config['class_path']}: there is no such class", argument="detector") from None
    if not (isinstance(kind, type) and issubclass(kind, Detector)):
        raise UserError(f"{config['class_path']} is not a Detector", argument="detector")
    detector: Detector = kind(num_classes, anchors, image_size, **config["init_args"])
    return detector
