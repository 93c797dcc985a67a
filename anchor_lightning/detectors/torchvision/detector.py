"""torchvision's detectors as this project trains them: built by name, with the interface that the task expects.

Shape letters: B images of a batch, M boxes an image (padded), A shapes over all levels, C classes, N a plain count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet

from anchor_lightning.anchors import AnchorOptions, AnchorShapes
from anchor_lightning.detectors.torchvision.convert import CLUSTERING, anchor_shapes, make_anchors_learnable
from anchor_lightning.detectors.torchvision.generators import LevelShapes
from anchor_lightning.detectors.torchvision.models import BUILDERS, load_backbone
from anchor_lightning.structures import DetectionBatch, Detections, StepOptions

MAX_DETECTIONS: Final = 300
STOCK_DETECTORS: Final = tuple(BUILDERS)
"""Names for `model.detector`."""


class StockDetector(nn.Module):
    """A torchvision detector with learnable shapes.

    Images are not resized again: the network input is the data module's, pixel for pixel.

    Args:
        name: One of `STOCK_DETECTORS`.
        num_classes: C >= 1.
        anchors: Where the shapes start; `init: model` is torchvision's own.
        pretrained: Whether `load_backbone` will be called: batch norms and first stages are then frozen.
        image_size: Height and width of the network input in pixels, of which SSD's boxes are shares; that of the
            published network if not given.

    Attributes:
        model: The torchvision detector.
        proposals: Of Faster R-CNN in evaluation: the boxes (N, 4) that the first stage proposed for each image of the
            last batch, best first, in pixels of the network input; else empty.

    Raises:
        ValueError: The shapes do not fit the detector, or there are no weights for it.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        anchors: AnchorOptions,
        pretrained: bool,
        image_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        size = [tuple(reversed(image_size))] if image_size and name.startswith("ssd") else []
        self.model, backbone = BUILDERS[name](num_classes, pretrained, MAX_DETECTIONS, *size)
        self._backbone = (backbone,)  # its parts are the model's already; a tuple, so that they are not named twice
        # k-means needs the training boxes, which the task brings.
        init: Any = "model" if anchors.init == "kmeans" else anchors.init
        shapes = make_anchors_learnable(self.model, init, learn=anchors.learn)
        if anchors.num not in (None, len(shapes.log_wh)):
            raise ValueError(
                f"model.anchors.num: {anchors.num}, but {name} has {len(shapes.log_wh)} shapes; leave it out"
            )
        shapes.pending = anchors.init == "kmeans"
        self.proposals: list[Tensor] = []
        self._is_finite: Tensor | None = None
        heads = [self.model.rpn.head, self.model.roi_heads.box_predictor] if self.is_two_stage else [self.model.head]
        for head in heads:
            head.register_forward_hook(self._check_and_widen)
        if self.is_two_stage:
            self.model.rpn.register_forward_hook(self._keep_proposals)

    @property
    def is_two_stage(self) -> bool:
        """Whether it has a first stage that proposes boxes."""
        return isinstance(self.model, GeneralizedRCNN)

    @property
    def first_label(self) -> int:
        """The model's label of class 0: 1 where its own 0 is the background."""
        return 0 if isinstance(self.model, RetinaNet) else 1

    @property
    def shapes(self) -> LevelShapes:
        """The owner of the shapes."""
        shapes = anchor_shapes(self.model)
        assert shapes is not None
        return shapes

    def load_backbone(self, weights: str) -> None:
        """Loads weights of image classification, see `stock_models.load_backbone`."""
        load_backbone(self._backbone[0], weights)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """What the torchvision detector says of (B, 3, H, W) images in evaluation."""
        # Once it evaluates, torchvision resizes to 800 pixels whatever it was told, but for a fixed width and height.
        self.model.transform.fixed_size = (images.shape[-1], images.shape[-2])
        found: list[dict[str, Tensor]] = self.model(list(images))
        return found

    def training_losses(self, batch: DetectionBatch, shapes: AnchorShapes, step: StepOptions) -> dict[str, Tensor]:
        """Torchvision's loss terms, named `loss_...`, and the clustering term."""
        if next(self.parameters()).dtype in (torch.float16, torch.bfloat16):
            raise ValueError("trainer.precision: torchvision's detectors need float32 weights; use bf16-mixed")
        self.shapes.clustering_weight = step.clustering_weight
        targets = []
        for boxes, labels, mask in zip(batch.boxes_xyxy, batch.labels, batch.mask, strict=True):
            used = mask & (boxes[:, 2:] > boxes[:, :2]).all(1)  # torchvision refuses boxes without area
            targets.append({"boxes": boxes[used], "labels": labels[used] + self.first_label})
        terms: Mapping[str, Tensor] = self.model(list(batch.images), targets)
        named = {name if name.startswith("loss_") else f"loss_{name}": term for name, term in terms.items()}
        named["loss_clustering"] = named.pop(CLUSTERING)
        return named

    def detect(self, images: Tensor, shapes: AnchorShapes, score_threshold: float) -> list[Detections]:
        """The detections of (B, 3, H, W) images, in pixels of the network input; their `anchors` are -1.

        Raises:
            ValueError: The network's output is not finite: torchvision drops every NaN, and a broken network would find
                nothing.
        """
        self._is_finite = None
        (self.model.roi_heads if self.is_two_stage else self.model).score_thresh = score_threshold
        everything = self(images)
        if self._is_finite is not None and not self._is_finite:
            raise ValueError("The network's output is not finite.")
        return [
            Detections(
                found["boxes"].float(),
                found["scores"].float(),
                found["labels"] - self.first_label,
                torch.full_like(found["labels"], -1),
            )
            for found in everything
        ]

    def _keep_proposals(self, module: nn.Module, args: Any, output: tuple[list[Tensor], Any]) -> None:
        self.proposals = [] if self.training else output[0]

    def _check_and_widen(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What a head says in float32, while it evaluates with a note whether all of it is finite.

        torchvision computes boxes in the type of the offsets: under bfloat16 autocast their corners are rounded to 2
        pixels at 300, and a box that is thinner has no width and gives NaN.
        """
        if isinstance(output, dict):
            return {name: self._check_and_widen(module, args, value) for name, value in output.items()}
        if not isinstance(output, Tensor):
            return type(output)(self._check_and_widen(module, args, value) for value in output)
        if not self.training:  # read once a batch: a device would be waited for
            finite = output.isfinite().all()
            self._is_finite = finite if self._is_finite is None else self._is_finite & finite
        return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
