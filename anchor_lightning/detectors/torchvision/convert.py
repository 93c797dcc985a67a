"""Makes the anchors of torchvision's detectors learn, and gives the stock detector back with what they learned.

Anchors are constants; the first-stage box loss alone gets outputs of the same values with a gradient to the shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD

from anchor_lightning.anchors import identical_shapes
from anchor_lightning.detectors.torchvision.generators import (
    LearnableAnchorGenerator,
    LearnableAnchors,
    LearnableDefaultBoxes,
    LevelShapes,
)
from anchor_lightning.errors import UserError
from anchor_lightning.fitting import check_distinct, kmeans_shapes

CLUSTERING: Final = "loss_anchor_clustering"  # The entry that the loss dict gains: λ times Eq. 11-12's clustering term
Init = Literal["model", "uniform", "identical", "kmeans"] | Sequence[Sequence[float]] | Tensor


class LearningRPN(RegionProposalNetwork):
    """The first stage of Faster R-CNN, with a gradient from its box loss to the shapes."""

    _boxes: list[Tensor]
    _matched: list[Tensor]
    _clustering: Tensor | None

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels and boxes of the anchors as of the stock class, which does not say which box it was."""
        labels, boxes_of_anchors = super().assign_targets_to_anchors(anchors, targets)
        self._boxes, self._matched = [target["boxes"] for target in targets], []
        for label, found, boxes in zip(labels, boxes_of_anchors, self._boxes, strict=True):
            matched = torch.full_like(label, -1, dtype=torch.int64)
            if len(boxes):
                positive = label == 1
                is_same = (found[positive][:, None] == boxes).all(-1)  # (P, M)
                matched[positive] = is_same.int().argmax(1)  # of equal boxes the first
            self._matched.append(matched)
        return labels, boxes_of_anchors

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The two losses of the stock class."""
        generator = cast(LearnableAnchorGenerator, self.anchor_generator)
        regression = pred_bbox_deltas.unflatten(0, (len(labels), -1))  # (B, N, 4)
        sampler = self.fg_bg_sampler
        max_positives = int(sampler.batch_size_per_image * sampler.positive_fraction)
        regression, self._clustering = generator.learn(
            regression, self._matched, self._boxes, self.box_coder.weights, False, max_positives
        )
        del self._matched, self._boxes
        losses: tuple[Tensor, Tensor] = super().compute_loss(
            objectness, regression.flatten(0, 1), labels, regression_targets
        )
        return losses

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals and losses of the stock class, with the clustering term."""
        boxes, losses = super().forward(images, features, targets)
        if self.training:
            losses[CLUSTERING], self._clustering = self._clustering, None
        return boxes, losses


class LearningLoss:
    """Before a stock class in the order of inheritance: its `compute_loss` with a gradient from the box loss."""

    anchor_generator: LearnableAnchors
    by_image: bool  # as of `LearnableAnchors.learn`

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """The losses of the stock class, with the clustering term."""
        coder: Any = getattr(self, "regression_head", self)  # RetinaNet's is in a head of this one
        boxes = [target["boxes"] for target in targets]
        regression, clustering = self.anchor_generator.learn(
            head_outputs["bbox_regression"], matched_idxs, boxes, coder.box_coder.weights, self.by_image
        )
        outputs = {**head_outputs, "bbox_regression": regression}
        losses: dict[str, Tensor] = super().compute_loss(targets, outputs, anchors, matched_idxs)  # type: ignore[misc]
        return {**losses, CLUSTERING: clustering}


class LearningRetinaNetHead(LearningLoss, RetinaNetHead):
    """RetinaNet's heads, with a gradient from the box loss to the shapes."""

    by_image = True


class LearningSSD(LearningLoss, SSD):
    """SSD, with a gradient from the box loss to the shapes."""

    by_image = False


LEARNING: Final[dict[type, type]] = {
    RegionProposalNetwork: LearningRPN,
    RetinaNetHead: LearningRetinaNetHead,
    SSD: LearningSSD,
}
"""Stock class -> the class that takes its place while the shapes learn; they differ in methods only."""
ORIGINAL: Final = {learning: original for original, learning in LEARNING.items()}


def make_anchors_learnable(
    model: nn.Module, init: Init = "model", *, boxes_wh: Tensor | None = None, learn: bool = True
) -> LevelShapes:
    """Makes the anchors of a torchvision detector parameters of it, in place, and returns the owner of the shapes.

    The losses of the training forward gain `loss_anchor_clustering`, times the shapes' `clustering_weight` (λ of Eq.
    11), which whoever trains lowers from 1 to 0. Until the shapes move, the detector computes what it did, to the bit.
    The assignment is hard, and the batch norm without shift is not used, as in the paper's Table 7; the shapes'
    `temperature` above 0 makes it soft. TorchScript does not compile the learnable model; it does after
    `freeze_anchors`.

    Args:
        model: Faster R-CNN (or Mask, Keypoint R-CNN) with or without FPN, RetinaNet, or SSD of torchvision.
        init: `model`: the shapes that it has. `identical`: one square of their mean area a level (those that
            learn within 0.2 %, see `identical_shapes`). `uniform`: an even
            log w - log h lattice over the range of each level. `kmeans`: of `boxes_wh`, the smallest on the first
            level. Or a list of A [w, h], level after level, in pixels of the network input.
        boxes_wh: (N, 2) widths and heights of training boxes in pixels of the network input, for `kmeans`.
        learn: False keeps the shapes where they start; else give their `log_wh` a parameter group without decay.

    Raises:
        TypeError: It is no such detector, or has a generator that is not a stock one.
        ValueError: It learns already.
        UserError: `init` or `boxes_wh` do not fit.
    """
    host = _host(model)
    stock = host.anchor_generator
    if isinstance(stock, LearnableAnchors):
        raise ValueError("The anchors of this model are learnable already.")
    learner = host.head if isinstance(host, RetinaNet) else host
    if type(stock) not in (AnchorGenerator, DefaultBoxGenerator) or type(learner) not in LEARNING:
        raise TypeError(
            f"{type(learner).__name__} with {type(stock).__name__}: anchors can be made learnable where both are "
            f"torchvision's own classes ({', '.join(kind.__name__ for kind in LEARNING)}; AnchorGenerator, "
            "DefaultBoxGenerator)"
        )
    device = next(model.parameters()).device
    generator: LearnableAnchorGenerator | LearnableDefaultBoxes
    if isinstance(stock, DefaultBoxGenerator):
        generator = LearnableDefaultBoxes(stock, host.transform.fixed_size, learn)
    else:
        generator = LearnableAnchorGenerator(stock, learn)
    shapes = generator.shapes
    if not (isinstance(init, str) and init == "model"):
        shapes.set_initial(_starting_shapes(init, shapes, boxes_wh, learn))
    host.anchor_generator = generator.to(device).train(model.training)
    learner.__class__ = LEARNING[type(learner)]
    if learner is not host:  # not as a sub-module: the state dict would name the shapes twice
        object.__setattr__(learner, "anchor_generator", generator)
    return shapes


def freeze_anchors(model: nn.Module) -> nn.Module:
    """Gives a detector its stock classes back, with the shapes that were learned, in place, and returns it.

    It predicts the same boxes to the bit (in half precision the stock generators round) and loads without this package.
    Its state dict holds no anchors: keep the model whole, or its generator's `cell_anchors` (SSD: `_wh_pairs`) beside.

    Raises:
        TypeError: It is no torchvision detector with anchors.
        ValueError: Its anchors are not learnable.
    """
    host = _host(model)
    generator = host.anchor_generator
    if not isinstance(generator, LearnableAnchors):
        raise ValueError("The anchors of this model are not learnable: there is nothing to freeze.")
    learner = host.head if isinstance(host, RetinaNet) else host
    host.anchor_generator = generator.to_torchvision().train(model.training)
    if learner is not host:
        object.__delattr__(learner, "anchor_generator")
    learner.__class__ = ORIGINAL[type(learner)]
    return model


def anchor_shapes(model: nn.Module) -> LevelShapes | None:
    """The owner of a detector's shapes; None if they are not learnable."""
    generator = _host(model).anchor_generator
    return generator.shapes if isinstance(generator, LearnableAnchors) else None


def is_detector(module: nn.Module) -> bool:
    """Whether a module is a torchvision detector whose anchors can be made learnable."""
    if isinstance(module, GeneralizedRCNN):
        return isinstance(getattr(module, "rpn", None), RegionProposalNetwork)
    return isinstance(module, (RetinaNet, SSD))


def _starting_shapes(init: Init, stock: LevelShapes, boxes_wh: Tensor | None, learn: bool) -> Tensor:
    """The (A, 2) shapes of an `init` other than `model`, given those of the stock model."""
    if not isinstance(init, str):
        return torch.as_tensor(init, dtype=torch.float32)
    if init == "kmeans":
        if boxes_wh is None:
            raise UserError("k-means needs (N, 2) training boxes in pixels of the network input", "boxes_wh")
        check_distinct(boxes_wh, len(stock.wh), is_fixed=True)
        return kmeans_shapes(boxes_wh, len(stock.wh))
    if init not in ("identical", "uniform"):
        raise UserError(f"unknown '{init}'; known are model, uniform, identical, kmeans, or a list of [w, h]", "init")
    levels = stock.wh.log().split(stock.num_per_level)
    if init == "identical":
        return torch.cat([identical_shapes(level.mean().exp().expand(2), len(level), learn) for level in levels])
    return torch.cat([_lattice(level) for level in levels]).exp()


def _lattice(log_wh: Tensor) -> Tensor:
    """As many points as (A, 2) shapes, row by row on the smallest square lattice over the range of their sides."""
    columns = math.ceil(math.sqrt(len(log_wh)))
    low, high = log_wh.min().item(), log_wh.max().item()
    sides = torch.linspace(low, high, columns) if columns > 1 else torch.tensor([(low + high) / 2])
    return torch.cartesian_prod(sides, sides)[: len(log_wh)]


def _host(model: nn.Module) -> Any:
    """The module that holds the anchor generator: the RPN, or the one-stage detector itself."""
    if not is_detector(model):
        raise TypeError(
            f"{type(model).__name__} is no torchvision detector with anchors: give a Faster, Mask or Keypoint R-CNN, a "
            "RetinaNet or an SSD"
        )
    return model.rpn if isinstance(model, GeneralizedRCNN) else model
