"""YOLOv2 with learnable anchors: the network, its shapes, its loss and its post-processing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from anchor_lightning.anchors import AnchorOptions, AnchorShapes, assign, clustering_loss, initial_shapes, num_shapes
from anchor_lightning.detectors.backbones import Backbone, DarkNet19
from anchor_lightning.detectors.base import Detector
from anchor_lightning.detectors.timm_backbone import TimmBackbone
from anchor_lightning.detectors.yolov2.darknet_weights import read_backbone, read_weights
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from anchor_lightning.detectors.yolov2.postprocess import postprocess
from anchor_lightning.errors import NonFiniteOutputError, UserError
from anchor_lightning.messages import warn
from anchor_lightning.structures import DetectionBatch, DetectorOutput, StepOptions

DARKNET19: Final = "darknet19"
COMPILERS: Final = ("c++", "g++", "clang++")


class YOLOv2(Detector):
    """YOLOv2 (Redmon & Farhadi 2017) on DarkNet-19 or a network of timm, with the paper's learnable anchors.

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes.
        image_size: Not read: the shapes are in pixels.
        width: Channel multiplier, of a timm backbone not; 1 is the published network, 0.25 suits small machines.
        bn_without_shift: Batch norm without shift on Δw, Δh (§3.2.3).
        bn_scale_init: Start of that norm's scale γ; the paper does not say.
        prior_images: Images for which anchors without a box are pulled to the prior, as in darknet; 0 is off.
        objectness_init: Objectness that the head starts with, in (0, 1); 0.5 is darknet's, which a low learning rate
            may never raise again once it has fallen to 0 everywhere. 0.01 avoids the fall.
        backbone: `darknet19`, or the name of a timm network with features at strides 16 and 32 (the extra `timm`).
        backbone_weights: Weights of image classification to start from: darknet's DarkNet-19
            (`darknet19_448.conv.23`), or a file of the timm network (`.pth`, `.safetensors`), or `pretrained`, which
            timm downloads.
        freeze_backbone: Number of stages of the backbone, from the image on, that are not trained; or `all`.
        freeze_norms: Whether the backbone's batch norms keep scale, shift and statistics; if not given those of a
            timm network with `backbone_weights` do, those of DarkNet-19 do not, as in darknet.
        backbone_lr_mult: Factor on the learning rate of the backbone.
        weights: A whole YOLOv2 of darknet (`yolov2-voc.weights`, `yolov2.weights`) to start from; `anchors.init` is
            then its `.cfg`, `yolov2-voc` or `yolov2-coco`. A checkpoint wins over both.
        compile: Compile the network with `torch.compile`.

    Raises:
        UserError: An option is out of its range, or does not go with another.
    """

    supports_soft_assignment: ClassVar[bool] = True
    images_before: Tensor  # Scalar int64 buffer: images that the darknet weights it started from were trained on

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        width: float = 1.0,
        bn_without_shift: bool = True,
        bn_scale_init: float = 1.0,
        prior_images: int = 12800,
        objectness_init: float = 0.5,
        backbone: str = DARKNET19,
        backbone_weights: str | None = None,
        freeze_backbone: int | Literal["all"] = 0,
        freeze_norms: bool | None = None,
        backbone_lr_mult: float = 1.0,
        weights: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if width <= 0:
            raise UserError(f"{width} must be more than 0", argument="width")
        if bn_scale_init < 0.01:
            raise UserError(f"{bn_scale_init} must be 0.01 or more", argument="bn_scale_init")
        if prior_images < 0:
            raise UserError(f"{prior_images} must be 0 or more", argument="prior_images")
        if not 0 < objectness_init < 1:
            raise UserError(f"{objectness_init} must be between 0 and 1", argument="objectness_init")
        if backbone_lr_mult < 0:
            raise UserError(f"{backbone_lr_mult} must be 0 or more", argument="backbone_lr_mult")
        if weights and backbone != DARKNET19:
            raise UserError(f"a whole YOLOv2 of darknet has no {backbone}; leave backbone out", argument="weights")
        if weights and backbone_weights:
            raise UserError("a whole YOLOv2 brings its backbone; leave backbone_weights out", argument="weights")
        if weights and anchors.init in ("kmeans", "identical", "uniform"):
            raise UserError(
                f"its anchors are its own, not those of anchors.init {anchors.init}; give the path of its .cfg there, "
                "or yolov2-voc or yolov2-coco, or a list in pixels",
                argument="weights",
            )
        num = num_shapes(anchors.init, anchors.num)
        self.anchors = AnchorShapes(num, initial_shapes(anchors.init, anchors.num), learn=anchors.learn)
        network: Backbone = DarkNet19(width) if backbone == DARKNET19 else TimmBackbone(backbone)
        is_pretrained = backbone != DARKNET19 and backbone_weights is not None
        self.freeze_norms = is_pretrained if freeze_norms is None else freeze_norms
        network.freeze(freeze_backbone, self.freeze_norms)
        self.network = YOLOv2Network(num, num_classes, width, bn_without_shift, bn_scale_init, objectness_init, network)
        self.register_buffer("images_before", torch.zeros((), dtype=torch.int64))
        self.width, self.prior_images = width, prior_images
        self.backbone, self.backbone_lr_mult = backbone, backbone_lr_mult
        self.backbone_weights, self.weights, self._compiles = backbone_weights, weights, compile

    @property
    def shapes(self) -> AnchorShapes:
        """The anchor shapes."""
        return self.anchors

    @property
    def architecture(self) -> dict[str, Any]:
        """Backbone and width, whether its norms are frozen, and whether the head has the batch norm without shift."""
        has_norm = self.network.head.norm is not None
        own = {"backbone": self.backbone, "width": self.width, "freeze_norms": self.freeze_norms}
        return own | {"bn_without_shift": has_norm}

    @property
    def lr_factors(self) -> dict[str, tuple[nn.Module, float]]:
        """The backbone's."""
        return {"backbone": (self.network.backbone, self.backbone_lr_mult)}

    @property
    def is_trained(self) -> bool:
        """Whether darknet's weights of a whole YOLOv2 are given."""
        return bool(self.weights)

    def training_losses(self, batch: DetectionBatch, step: StepOptions) -> dict[str, Tensor]:
        """The terms of Eq. 11: those of `region_loss` with δ held fixed, and the clustering term."""
        log_wh = self.anchors.log_wh
        predictions = self.network(batch.images)
        grid, stride = predictions.raw.shape[-2:], predictions.stride
        assignment = assign(
            log_wh, batch.boxes_xyxy, batch.mask, grid, stride, step.temperature, distance=step.distance
        )
        prior = (self.images_before + step.images_seen < self.prior_images).float()
        terms = region_loss(predictions, batch, assignment, log_wh, prior)
        # DDP averages gradients over the ranks, while Eq. 11 divides the sum over all of them by N.
        weight = step.clustering_weight * step.world_size
        clustering = clustering_loss(log_wh, assignment.log_wh, assignment.delta, step.num_boxes)
        return terms | {"loss_clustering": weight * clustering}

    def detect(self, images: Tensor, score_threshold: float) -> DetectorOutput:
        """The detections of (B, 3, H, W) images, H and W multiples of 32, in pixels of the network input."""
        predictions = self.network(images)
        if not predictions.raw.isfinite().all():
            # The threshold would drop every NaN without a word, and a broken network score an honest 0.
            raise NonFiniteOutputError("The network's output is not finite.")
        return DetectorOutput(postprocess(predictions, self.anchors.log_wh, score_threshold))

    def load_pretrained(self) -> str:
        """Loads weights of the whole network or of the backbone, if the options name any."""
        if self.weights:
            seen = read_weights(self.weights, self.network)
            self.images_before.fill_(seen)
            return f"The network starts from {self.weights}, trained on {seen:,} images."
        backbone = self.network.backbone
        if self.backbone_weights and isinstance(backbone, TimmBackbone):
            return backbone.load(self.backbone_weights)
        if self.backbone_weights and isinstance(backbone, DarkNet19):
            seen = read_backbone(self.backbone_weights, backbone)
            return f"The backbone starts from {self.backbone_weights}, trained on {seen:,} images."
        return (
            "The network starts from random weights; the paper's backbone was pretrained on ImageNet "
            "(backbone_weights)."
        )

    def check(self) -> None:
        """See `Backbone.check`."""
        self.network.backbone.check()

    def setup(self) -> None:
        """Compiles the network if asked to."""
        if not self._compiles:
            return
        if any(shutil.which(compiler) for compiler in COMPILERS):
            self.network.compile()
        else:
            warn(f"No C++ compiler was found ({', '.join(COMPILERS)}); the network runs uncompiled.")
