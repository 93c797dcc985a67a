"""What torchvision's detectors with learnable anchors share, behind the interface of `Detector`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from anchor_lightning.anchors import AnchorOptions, split_levels
from anchor_lightning.detectors.base import Detector
from anchor_lightning.detectors.timm_backbone import TimmBackbone
from anchor_lightning.detectors.torchvision import models
from anchor_lightning.detectors.torchvision.backbone_options import TimmOptions
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
        timm: Options of a timm backbone.
        bound_octaves: See `LevelShapes.constrain`.
        share_levels: See `LevelShapes.constrain`.

    Raises:
        UserError: The shapes, or what is to hold them, do not fit the detector.
    """

    supports_soft_assignment: ClassVar[bool] = True
    is_soft_assignment_measured: ClassVar[bool] = False
    has_fixed_number: ClassVar[bool] = True
    first_label: ClassVar[int] = 1  # The model's label of class 0: 1 where its own 0 is the background

    def __init__(
        self,
        built: models.Built,
        anchors: AnchorOptions,
        backbone_weights: str | None,
        heads: Sequence[nn.Module],
        architecture: dict[str, Any],
        timm: TimmOptions | None = None,
        bound_octaves: float | None = None,
        share_levels: bool = False,
    ) -> None:
        super().__init__()
        self.model, classifier = built
        self._timm = timm or TimmOptions()
        if isinstance(classifier, TimmBackbone):
            self._timm = self._timm.of_backbone(pretrained=backbone_weights is not None)
            classifier.freeze(self._timm.freeze_backbone, bool(self._timm.freeze_norms))
        else:
            self._timm.check_not_given()
        architecture = architecture | {"freeze_norms": self._timm.freeze_norms}
        self._classifier = (classifier,)  # its parts are the model's already; a tuple, so that they are not named twice
        self.backbone_weights, self._architecture = backbone_weights, architecture
        # k-means needs the training boxes, which the task brings.
        init: Any = "model" if anchors.init == "kmeans" else anchors.init
        of_levels = None
        if not isinstance(init, str):
            init, of_levels = split_levels(init)
        shapes = make_anchors_learnable(self.model, init, learn=anchors.learn)
        shapes.constrain(bound_octaves, share_levels)
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
        if isinstance(self._classifier[0], TimmBackbone):
            return self._classifier[0].load(self.backbone_weights)
        models.load_backbone(self._classifier[0], self.backbone_weights)
        return f"The backbone starts from {self.backbone_weights}."

    @property
    def lr_factors(self) -> dict[str, tuple[nn.Module, float]]:
        """A timm backbone's."""
        network = self._classifier[0]
        return {"backbone": (network, self._timm.backbone_lr_mult)} if isinstance(network, TimmBackbone) else {}

    def check(self) -> None:
        """See `Backbone.check`."""
        if isinstance(self._classifier[0], TimmBackbone):
            self._classifier[0].check()

    def train(self, mode: bool = True) -> TorchvisionDetector:
        """Sets the mode; see `Backbone.train` for the norms of a timm backbone."""
        super().train(mode)
        if isinstance(self._classifier[0], TimmBackbone):
            self._classifier[0].train(mode)
        return self

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
        self.shapes.temperature, self.shapes.distance = step.temperature, step.distance
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
