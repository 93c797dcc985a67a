"""torchvision's detectors with learnable anchors, behind the interface of `Detector`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from anchor_lightning.anchors import AnchorOptions, split_levels
from anchor_lightning.detectors.base import Detector
from anchor_lightning.detectors.torchvision import models
from anchor_lightning.detectors.torchvision.convert import CLUSTERING, anchor_shapes, make_anchors_learnable
from anchor_lightning.detectors.torchvision.generators import LevelShapes
from anchor_lightning.errors import NonFiniteOutputError, UserError
from anchor_lightning.structures import DetectionBatch, Detections, DetectorOutput, StepOptions

HALF_PRECISIONS: Final = (torch.float16, torch.bfloat16)


class TorchvisionDetector(Detector):
    """Base class of the detectors that wrap one of torchvision's, `model`; images are not resized again.

    Args:
        built: The torchvision detector, and the classification network that its backbone was made from.
        anchors: Start of the shapes; `init: model` is torchvision's own.
        backbone_weights: What `load_pretrained` loads; None for random weights.
        heads: The modules whose outputs are checked and kept in float32.
        architecture: The options on which it depends whether weights fit, but for whether it was pretrained.

    Raises:
        UserError: The shapes do not fit the detector.
    """

    first_label: ClassVar[int] = 1  # The model's label of class 0: 1 where its own 0 is the background

    def __init__(
        self,
        built: models.Built,
        anchors: AnchorOptions,
        backbone_weights: str | None,
        heads: Sequence[nn.Module],
        architecture: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model, classifier = built
        self._classifier = (classifier,)  # its parts are the model's already; a tuple, so that they are not named twice
        self.backbone_weights, self._architecture = backbone_weights, architecture
        # k-means needs the training boxes, which the task brings.
        init: Any = "model" if anchors.init == "kmeans" else anchors.init
        of_levels = None
        if not isinstance(init, str):
            init, of_levels = split_levels(init)
        shapes = make_anchors_learnable(self.model, init, learn=anchors.learn)
        if of_levels not in (None, shapes.num_per_level) and len(shapes.num_per_level) > 1:
            raise UserError(
                f"{of_levels} shapes on the levels, the smallest stride first, but {type(self).__name__} has "
                f"{shapes.num_per_level}",
                argument="anchors.init",
            )
        if anchors.num not in (None, len(shapes.log_wh)):
            raise UserError(
                f"{anchors.num}, but {type(self).__name__} has {len(shapes.log_wh)} shapes; leave it out",
                argument="anchors.num",
            )
        shapes.pending = anchors.init == "kmeans"
        self._is_finite: Tensor | None = None
        for head in heads:
            head.register_forward_hook(self._check_and_widen)
        self.to(memory_format=torch.channels_last)

    @property
    def shapes(self) -> LevelShapes:
        """See `LevelShapes`."""
        shapes = anchor_shapes(self.model)
        assert shapes is not None
        return shapes

    @property
    def architecture(self) -> dict[str, Any]:
        """The options on which it depends whether weights fit; a pretrained backbone's first stages are frozen."""
        return self._architecture | {"backbone_weights": self.backbone_weights is not None}

    def load_pretrained(self) -> str:
        """Loads weights of image classification into the backbone, if the options name any."""
        if self.backbone_weights is None:
            return "The network starts from random weights (backbone_weights)."
        models.load_backbone(self._classifier[0], self.backbone_weights)
        return f"The backbone starts from {self.backbone_weights}."

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """What the torchvision detector says of (B, 3, H, W) images in evaluation."""
        # Once it evaluates, torchvision resizes to 800 pixels whatever its arguments, but for a fixed width and height.
        self.model.transform.fixed_size = (images.shape[-1], images.shape[-2])
        found: list[dict[str, Tensor]] = self.model(list(images))
        return found

    def training_losses(self, batch: DetectionBatch, step: StepOptions) -> dict[str, Tensor]:
        """Torchvision's loss terms, named `loss_...`, and λ times the clustering term."""
        if next(self.parameters()).dtype in HALF_PRECISIONS:
            raise UserError("torchvision's detectors need float32 weights; use bf16-mixed", argument="precision")
        targets = []
        for boxes, labels, mask in zip(batch.boxes_xyxy, batch.labels, batch.mask, strict=True):
            used = mask & (boxes[:, 2:] > boxes[:, :2]).all(1)  # torchvision raises an error for boxes without area
            targets.append({"boxes": boxes[used], "labels": labels[used] + self.first_label})
        terms: Mapping[str, Tensor] = self.model(list(batch.images), targets)
        named = {name if name.startswith("loss_") else f"loss_{name}": term for name, term in terms.items()}
        named["loss_clustering"] = step.clustering_weight * named.pop(CLUSTERING)
        return named

    def detect(self, images: Tensor, score_threshold: float) -> DetectorOutput:
        """The detections of (B, 3, H, W) images, in pixels of the network input; their `anchors` are -1."""
        self._is_finite = None
        second_stage: Any = getattr(self.model, "roi_heads", self.model)
        second_stage.score_thresh = score_threshold
        everything = self(images)
        if self._is_finite is not None and not self._is_finite:  # torchvision drops every NaN and would find nothing
            raise NonFiniteOutputError("The network's output is not finite.")
        return DetectorOutput(
            [
                Detections(
                    found["boxes"].float(),
                    found["scores"].float(),
                    found["labels"] - self.first_label,
                    torch.full_like(found["labels"], -1),
                )
                for found in everything
            ]
        )

    def _check_and_widen(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The output of a head in float32 (bfloat16 rounds corners to 2 pixels at 300); notes whether it is finite."""
        if isinstance(output, dict):
            return {name: self._check_and_widen(module, args, value) for name, value in output.items()}
        if not isinstance(output, Tensor):
            return type(output)(self._check_and_widen(module, args, value) for value in output)
        if not self.training:  # read once a batch: a device would be waited for
            finite = output.isfinite().all()
            self._is_finite = finite if self._is_finite is None else self._is_finite & finite
        return output.float() if output.dtype in HALF_PRECISIONS else output


class FasterRCNN(TorchvisionDetector):
    """torchvision's Faster R-CNN, on a feature pyramid or on the fourth stage of a ResNet.

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes of the first stage; `init: model` is torchvision's own.
        image_size: Not read: the shapes are in pixels.
        backbone: `resnet50`, or `small`: ten layers, for machines without GPU and inputs of about 256 pixels.
        fpn: A feature pyramid (Lin et al. 2017); without, the fifth stage is the second stage's head (He et al. 2016).
        backbone_weights: torchvision's name of ResNet-50 weights to download (`IMAGENET1K_V1`), or a state dict's path.

    Raises:
        UserError: The shapes do not fit, or there are no weights for the backbone.
    """

    has_proposals: ClassVar[bool] = True

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        backbone: models.ResNetName = "resnet50",
        fpn: bool = True,
        backbone_weights: str | None = None,
    ) -> None:
        build = models.faster_rcnn_fpn if fpn else models.faster_rcnn_c4
        built = build(num_classes, backbone, backbone_weights is not None)
        heads = [built[0].rpn.head, built[0].roi_heads.box_predictor]
        super().__init__(built, anchors, backbone_weights, heads, {"backbone": backbone, "fpn": fpn})
        self._proposals: list[Tensor] = []
        self.model.rpn.register_forward_hook(self._keep_proposals)

    def detect(self, images: Tensor, score_threshold: float) -> DetectorOutput:
        """The detections, and the first stage's proposals, of (B, 3, H, W) images in pixels of the network input."""
        output = super().detect(images, score_threshold)
        proposals, self._proposals = self._proposals, []
        return output._replace(proposals=proposals)

    def _keep_proposals(self, module: nn.Module, args: Any, output: tuple[list[Tensor], Any]) -> None:
        if not self.training:
            self._proposals = output[0]


class RetinaNet(TorchvisionDetector):
    """torchvision's RetinaNet (Lin et al. 2017).

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes; `init: model` is torchvision's own.
        image_size: Not read: the shapes are in pixels.
        backbone: `resnet50`, or `small`: ten layers, for machines without GPU and inputs of about 256 pixels.
        backbone_weights: As of `FasterRCNN`.

    Raises:
        UserError: The shapes do not fit, or there are no weights for the backbone.
    """

    first_label: ClassVar[int] = 0

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        backbone: models.ResNetName = "resnet50",
        backbone_weights: str | None = None,
    ) -> None:
        built = models.retinanet(num_classes, backbone, backbone_weights is not None)
        super().__init__(built, anchors, backbone_weights, [built[0].head], {"backbone": backbone})


class SSD(TorchvisionDetector):
    """torchvision's SSD (Liu et al. 2016).

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes; `init: model` is torchvision's own.
        image_size: Height and width, of which the shapes are shares; 300 x 300 (`small`: 256 x 256) if not given.
        backbone: `vgg16`, or `small`: three levels of a ResNet of ten layers, for machines without GPU.
        backbone_weights: `IMAGENET1K_FEATURES` to download, or the path of a VGG-16's state dict; see `load_backbone`.

    Raises:
        UserError: The shapes do not fit, or there are no weights for the backbone.
    """

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        backbone: Literal["vgg16", "small"] = "vgg16",
        backbone_weights: str | None = None,
    ) -> None:
        build = models.ssd_small if backbone == "small" else models.ssd300
        size = [(image_size[1], image_size[0])] if image_size else []
        built = build(num_classes, backbone_weights is not None, *size)
        architecture = {"backbone": backbone, "image_size": list(image_size) if image_size else None}
        super().__init__(built, anchors, backbone_weights, [built[0].head], architecture)
