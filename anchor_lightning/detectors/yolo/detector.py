"""What YOLOv2 and YOLOv3 share: their options, the shapes on the levels of the head, training and detection."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from anchor_lightning.anchors import (
    AnchorOptions,
    AnchorShapes,
    assign_levels,
    clustering_loss,
    initial_shapes,
    split_levels,
)
from anchor_lightning.anchors import num_shapes as number_of_shapes
from anchor_lightning.anchors.initialization import NAMED_GRID_UNITS, NAMED_LEVELS
from anchor_lightning.detectors.backbones import Backbone
from anchor_lightning.detectors.base import Detector
from anchor_lightning.detectors.timm_backbone import TimmBackbone
from anchor_lightning.detectors.yolo.darknet_weights import read_backbone, read_weights
from anchor_lightning.detectors.yolo.network import YOLONetwork
from anchor_lightning.detectors.yolo.postprocess import postprocess
from anchor_lightning.errors import NonFiniteOutputError, UserError
from anchor_lightning.messages import warn
from anchor_lightning.structures import Assignment, DetectionBatch, DetectorOutput, Predictions, StepOptions

COMPILERS: Final = ("c++", "g++", "clang++")


class YOLO(Detector):
    """Base class of the YOLO detectors: a network whose head has one or more levels, each with shapes of its own.

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes.
        image_size: Not read: the shapes are in pixels.
        backbone: The name of a timm network (the extra `timm`) with features at the strides of the detector; darknet's
            own network if not given.
        width: Channel multiplier, of a timm backbone not; 1 is the published network, 0.25 suits small machines.
        bn_without_shift: Batch norm without shift on Δw, Δh (§3.2.3).
        bn_scale_init: Start of that norm's scale γ; the paper does not say.
        objectness_init: Objectness that the head starts with, in (0, 1); 0.5 is darknet's, which a low learning rate
            may never raise again once it has fallen to 0 everywhere. 0.01 avoids the fall. Not used with `weights`,
            whose head is trained.
        backbone_weights: Weights of image classification to start from: darknet's of its own network
            (`darknet19_448.conv.23`, `darknet53.conv.74`), or a file of the timm network (`.pth`, `.safetensors`), or
            `pretrained`, which timm downloads.
        freeze_backbone: Number of stages of the backbone, from the image on, that are not trained; or `all`.
        freeze_norms: Whether the backbone's batch norms keep scale, shift and statistics; if not given those of a
            timm network with `backbone_weights` do, those of darknet's networks do not, as in darknet.
        backbone_lr_mult: Factor on the learning rate of the backbone.
        weights: A whole network of darknet (`yolov2-voc.weights`, `yolov3.weights`) to start from; `anchors.init` is
            then its `.cfg`, or the name of its shapes. A checkpoint wins over both.
        compile: Compile the network with `torch.compile`; on a CPU the training gets slower, which is warned of.

    Raises:
        UserError: An option is out of its range, or does not go with another.
    """

    supports_soft_assignment: ClassVar[bool] = True
    darknet_backbone: ClassVar[str]
    strides: ClassVar[tuple[int, ...]]  # of the levels, the smallest first
    backbone_strides: ClassVar[tuple[int, ...]]
    num_shapes: ClassVar[int]  # where neither `anchors.init` nor `anchors.num` says it
    multi_label: ClassVar[bool]  # whether classes are independent, as of `boxes_and_scores`
    cfg_remark: ClassVar[str]  # on the anchors in the `.cfg`
    network: YOLONetwork
    images_before: Tensor  # Scalar int64 buffer: images that the darknet weights it started from were trained on

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        backbone: str | None = None,
        width: float = 1.0,
        bn_without_shift: bool = True,
        bn_scale_init: float = 1.0,
        objectness_init: float = 0.5,
        backbone_weights: str | None = None,
        freeze_backbone: int | Literal["all"] = 0,
        freeze_norms: bool | None = None,
        backbone_lr_mult: float = 1.0,
        weights: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        backbone = backbone or self.darknet_backbone
        kind, is_darknets = type(self).__name__, backbone == self.darknet_backbone
        if width <= 0:
            raise UserError(f"{width} must be more than 0", argument="width")
        if bn_scale_init < 0.01:
            raise UserError(f"{bn_scale_init} must be 0.01 or more", argument="bn_scale_init")
        if not 0 < objectness_init < 1:
            raise UserError(f"{objectness_init} must be between 0 and 1", argument="objectness_init")
        if backbone_lr_mult < 0:
            raise UserError(f"{backbone_lr_mult} must be 0 or more", argument="backbone_lr_mult")
        if weights and not is_darknets:
            raise UserError(f"a whole {kind} of darknet has no {backbone}; leave backbone out", argument="weights")
        if weights and backbone_weights:
            raise UserError(f"a whole {kind} brings its backbone; leave backbone_weights out", argument="weights")
        if weights and anchors.init in ("kmeans", "identical", "uniform"):
            named = [name for name, wh in NAMED_GRID_UNITS.items() if len(wh) == self.num_shapes and name != "uniform"]
            raise UserError(
                f"its anchors are its own, not those of anchors.init {anchors.init}; give the path of its .cfg there, "
                f"or {' or '.join(named)}, or a list in pixels",
                argument="weights",
            )
        self.anchors = self._make_shapes(anchors)
        network = self._make_darknet(width) if is_darknets else TimmBackbone(backbone, self.backbone_strides)
        is_pretrained = not is_darknets and backbone_weights is not None
        self.freeze_norms = is_pretrained if freeze_norms is None else freeze_norms
        network.freeze(freeze_backbone, self.freeze_norms)
        self.network = self._make_network(
            self.anchors.num_per_level, num_classes, width, bn_without_shift, bn_scale_init, objectness_init, network
        )
        self.register_buffer("images_before", torch.zeros((), dtype=torch.int64))
        self.width, self.backbone, self.backbone_lr_mult = width, backbone, backbone_lr_mult
        self.backbone_weights, self.weights, self._compiles = backbone_weights, weights, compile

    def _make_shapes(self, anchors: AnchorOptions) -> AnchorShapes:
        num, levels = number_of_shapes(anchors.init, anchors.num, self.num_shapes), len(self.strides)
        init = anchors.init
        stated = NAMED_LEVELS.get(init) if isinstance(init, str) else split_levels(init)[1]
        if levels == 1:
            if stated is not None and len(stated) > 1:
                warn(f"anchors.init: {type(self).__name__} has one level, which takes the shapes of all {len(stated)}.")
            stated = (num,)
        if stated is None and num % levels:
            raise UserError(
                f"{num} shapes do not divide equally among the {levels} levels of {type(self).__name__}; the number "
                "counts all levels together, as in 9. For other numbers on each level give a list of levels",
                argument="anchors.num" if anchors.num else "anchors.init",
            )
        num_per_level = stated or [num // levels] * levels
        if len(num_per_level) != levels:
            raise UserError(
                f"shapes on {len(num_per_level)} levels, but {type(self).__name__} has {levels}; fit shapes for so "
                f"many (anchors fit --num {3 * levels} --levels {levels}), or give them as a list in pixels",
                argument="anchors.init",
            )
        initial = initial_shapes(anchors.init, num, anchors.learn)
        return AnchorShapes(num, initial, learn=anchors.learn, num_per_level=num_per_level)

    @abstractmethod
    def _make_darknet(self, width: float) -> Backbone:
        """Darknet's own backbone."""

    @abstractmethod
    def _make_network(self, num_per_level: Sequence[int], *options: Any) -> YOLONetwork:
        """The network, of the number of shapes of each level and the further arguments of `YOLOv2Network`."""

    @abstractmethod
    def _level_loss(
        self, level: Predictions, batch: DetectionBatch, assignment: Assignment, log_wh: Tensor, step: StepOptions
    ) -> dict[str, Tensor]:
        """The terms of one level, see `region_loss`; `log_wh` are the shapes of the level."""

    @abstractmethod
    def darknet_cfg(self, image_size: tuple[int, int], score_threshold: float, comment: str) -> str:
        """The text of its `.cfg`, of the last arguments of `cfg_text` of its module `darknet_cfg`."""

    @property
    def shapes(self) -> AnchorShapes:
        """The anchor shapes."""
        return self.anchors

    @property
    def architecture(self) -> dict[str, Any]:
        """Backbone and width, whether its norms are frozen, and what the head is like."""
        levels = {"num_per_level": self.anchors.num_per_level} if len(self.strides) > 1 else {}
        own = {"backbone": self.backbone, "width": self.width, "freeze_norms": self.freeze_norms}
        return own | {"bn_without_shift": self.network.heads[0].norm is not None} | levels

    @property
    def lr_factors(self) -> dict[str, tuple[nn.Module, float]]:
        """The backbone's."""
        return {"backbone": (self.network.backbone, self.backbone_lr_mult)}

    @property
    def is_trained(self) -> bool:
        """Whether darknet's weights of a whole network are given."""
        return bool(self.weights)

    def training_losses(self, batch: DetectionBatch, step: StepOptions) -> dict[str, Tensor]:
        """The terms of Eq. 11, summed over the levels: those of the detector's loss with δ fixed, and clustering."""
        shapes, levels = self.anchors, self.network.levels(batch.images)
        grids = [(level.raw.shape[-2], level.raw.shape[-1]) for level in levels]
        assignments = assign_levels(
            shapes.log_wh,
            shapes.num_per_level,
            batch.boxes_xyxy,
            batch.mask,
            grids,
            [level.stride for level in levels],
            step.temperature,
            distance=step.distance,
        )
        # DDP averages gradients over the ranks, while Eq. 11 divides the sum over all of them by N.
        weight = step.clustering_weight * step.world_size
        total: dict[str, Tensor] = {}
        for level, assignment, log_wh in zip(
            levels, assignments, shapes.log_wh.split(shapes.num_per_level), strict=True
        ):
            terms = self._level_loss(level, batch, assignment, log_wh, step)
            clustering = clustering_loss(log_wh, assignment.log_wh, assignment.delta, step.num_boxes)
            for name, term in (terms | {"loss_clustering": weight * clustering}).items():
                total[name] = total[name] + term if name in total else term
        return total

    def detect(self, images: Tensor, score_threshold: float) -> DetectorOutput:
        """The detections of (B, 3, H, W) images, H and W multiples of 32, in pixels of the network input."""
        levels = self.network.levels(images)
        if not all(level.raw.isfinite().all() for level in levels):
            # The threshold would drop every NaN without a word, and a broken network score an honest 0.
            raise NonFiniteOutputError("The network's output is not finite.")
        return DetectorOutput(postprocess(levels, self.anchors.log_wh, score_threshold, self.multi_label))

    def load_pretrained(self) -> str:
        """Loads weights of the whole network or of the backbone, if the options name any."""
        if self.weights:
            seen = read_weights(self.weights, self.network, type(self).__name__)
            self.images_before.fill_(seen)
            return f"The network starts from {self.weights}, trained on {seen:,} images."
        backbone = self.network.backbone
        if self.backbone_weights and isinstance(backbone, TimmBackbone):
            return backbone.load(self.backbone_weights)
        if self.backbone_weights:
            seen = read_backbone(self.backbone_weights, backbone)
            return f"The backbone starts from {self.backbone_weights}, trained on {seen:,} images."
        return (
            "The network starts from random weights; the paper's backbone was pretrained on ImageNet "
            "(backbone_weights)."
        )

    def check(self) -> None:
        """See `Backbone.check`; warns of compilation where it does not pay."""
        self.network.backbone.check()
        if self._compiles and self.images_before.device.type == "cpu":
            warn("compile: on a CPU the training gets slower by it (1.1 to 1.4 times) and first compiles for a minute.")

    def setup(self) -> None:
        """Compiles the network if asked to."""
        if not self._compiles:
            return
        if any(shutil.which(compiler) for compiler in COMPILERS):
            self.network.compile()
        else:
            warn(f"No C++ compiler was found ({', '.join(COMPILERS)}); the network runs uncompiled.")
