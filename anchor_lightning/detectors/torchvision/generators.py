"""Anchor generators whose shapes are parameters, in the place of torchvision's stock ones.

Shape letters: B images, A shapes over all levels, N anchors and M boxes of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from anchor_lightning.anchors import AnchorShapes
from anchor_lightning.anchors.assignment import Distance
from anchor_lightning.anchors.losses import clustering_loss
from anchor_lightning.detectors.torchvision.assignment import assign_matched
from anchor_lightning.errors import UserError


class LevelShapes(AnchorShapes):
    """The shapes of all levels of a detector, the first level's first.

    Args:
        start: (A, 4) left, top, right, bottom of each shape about its place: exactly where training starts.
        num_per_level: Shapes of each level; their sum is A.
        unit: Width and height of `start`'s unit in pixels of the network input.
        learn: False freezes the shapes.

    Attributes:
        clustering_weight: λ of Eq. 11, set by whoever trains, as all that follow; no state dict holds them.
        temperature: T of Eq. 10; 0 is the hard assignment.
        distance: Distance of the assignment, `iou` or `l2`.
        bound_octaves: See `constrain`.
        share_levels: See `constrain`.
    """

    start: Tensor
    unit: Tensor
    level: Tensor

    def __init__(
        self, start: Tensor, num_per_level: Sequence[int], unit: Sequence[float] = (1.0, 1.0), *, learn: bool = True
    ) -> None:
        start, pixels = start.detach().float().cpu(), torch.tensor([*unit, *unit], dtype=torch.float32)
        super().__init__(len(start), (start[:, 2:] - start[:, :2]) * pixels[:2], learn=learn)
        self.register_buffer("start", start.clone())
        self.register_buffer("unit", pixels)
        self.num_per_level = list(num_per_level)
        level = torch.arange(len(self.num_per_level)).repeat_interleave(torch.tensor(self.num_per_level))
        self.register_buffer("level", level, persistent=False)  # (A,) of each shape
        self.clustering_weight = 1.0
        self.temperature: Tensor | float = 0.0
        self.distance: Distance = "iou"
        self.bound_octaves: float | None = None
        self.share_levels = False

    @property
    def wh(self) -> Tensor:
        """(A, 2) widths and heights in pixels of the network input, within the bounds, without gradient."""
        return self.within_bounds().detach().exp()

    def cells(self) -> Tensor:
        """(A, 4) as `start` (to the bit until they move), of the shapes as they are, with a gradient to `log_wh`."""
        growth = (self.start[:, 2:] - self.start[:, :2]) / 2 * torch.expm1(self.within_bounds() - self.initial_log_wh)
        return self.start + torch.cat([-growth, growth], 1)

    def constrain(self, bound_octaves: float | None = None, share_levels: bool = False) -> None:
        """Sets how freely the shapes move.

        Args:
            bound_octaves: The scale sqrt(w h) of a shape stays at most so many octaves (factors of 2) above the largest
                scale with which its level started, or below the smallest; None for no bounds. Ratios of the sides are
                free. Whatever reads the shapes sees them so; `log_wh` itself, which an optimizer step may have taken
                further, is brought back at each training forward and where a state dict is made.
            share_levels: Shapes of the same place on the levels move together, by the same factors: one set of shapes
                in units of each level's own. With bounds the first level that meets its own stops all.

        Raises:
            UserError: The bound is negative, or the levels have no or not the same number of shapes to share.
        """
        if bound_octaves is not None and not 0 <= bound_octaves < math.inf:
            raise UserError(f"must be 0 or more octaves, got {bound_octaves}", "bound_octaves")
        if share_levels and (len(self.num_per_level) == 1 or len(set(self.num_per_level)) > 1):
            raise UserError(
                f"shares shapes among levels with the same number of them; here the levels have {self.num_per_level}",
                "share_levels",
            )
        self.bound_octaves, self.share_levels = bound_octaves, share_levels

    def moving(self) -> Tensor:
        """(A, 2) `log_wh` as the losses are to see it: where levels share their shapes a gradient is for all levels."""
        if not self.share_levels:
            return self.log_wh
        constant = self.log_wh.detach()
        zeros = (self.log_wh - constant).view(len(self.num_per_level), -1, 2).sum(0)
        return constant + zeros.repeat(len(self.num_per_level), 1)

    def within_bounds(self) -> Tensor:
        """(A, 2) `log_wh`, with scales beyond `bound_octaves` brought back."""
        if self.bound_octaves is None:
            return self.log_wh
        reach, num_levels = self.bound_octaves * math.log(2), len(self.num_per_level)
        starts = self.initial_log_wh.mean(1).split(self.num_per_level)
        lowest = torch.cat([start.min() - reach - start for start in starts])  # (A,) logarithms of factors
        highest = torch.cat([start.max() + reach - start for start in starts])
        if self.share_levels:
            lowest = lowest.view(num_levels, -1).amax(0).repeat(num_levels)
            highest = highest.view(num_levels, -1).amin(0).repeat(num_levels)
        factor = (self.log_wh - self.initial_log_wh).mean(1)
        return self.log_wh + (factor.clamp(lowest, highest) - factor)[:, None]

    @torch.no_grad()
    def keep_in_bounds(self) -> None:
        """Brings `log_wh` back within the bounds."""
        if self.bound_octaves is not None:
            self.log_wh.copy_(self.within_bounds())

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.keep_in_bounds()  # who loads it may have been told of no bounds
        super()._save_to_state_dict(*args, **kwargs)

    @torch.no_grad()
    def set_initial(self, wh: Tensor) -> None:
        """Starts the shapes at `wh`, (A, 2) in pixels of the network input, about the same points as before."""
        super().set_initial(wh)
        if hasattr(self, "start"):
            centre, half = (self.start[:, :2] + self.start[:, 2:]) / 2, wh.to(self.start) / self.unit[:2] / 2
            self.start.copy_(torch.cat([centre - half, centre + half], 1))


class LearnableAnchors(nn.Module):
    """What both learnable generators add to the stock ones."""

    shapes: LevelShapes
    _num_positions: list[int]

    def to_torchvision(self) -> nn.Module:
        """A stock generator with the shapes as they are now."""
        raise NotImplementedError

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` asks of a module before it compiles it; a `UserError`, for these it cannot."""
        raise UserError(
            "TorchScript does not compile a detector while its anchors are learnable; call freeze_anchors(model) first"
        )

    def spread(self, of_shape: Tensor) -> Tensor:
        """Values of the (A, K) shapes for each of the N anchors of an image, (N, K), in the generator's order."""
        levels = of_shape.split(self.shapes.num_per_level)
        return torch.cat([level.repeat(num, 1) for level, num in zip(levels, self._num_positions, strict=True)])

    def learn(
        self,
        regression: Tensor,
        matched: Sequence[Tensor],
        boxes_xyxy: Sequence[Tensor],
        coder_weights: Sequence[float],
        by_image: bool,
        max_positives: float = math.inf,
    ) -> tuple[Tensor, Tensor]:
        """What the box loss gets in the place of the head's output, and λ times Eq. 11-12's clustering term.

        The gradient of a shape is that of the output Δw, Δh of its positives (Eq. 9), weighted such that each box of
        the batch counts once (`assign_matched`). Their Δx, Δy do not move it, though torchvision measures them in
        widths and heights of the anchor.

        Args:
            regression: (B, N, 4) output of the box head, Δw and Δh last.
            matched: B tensors (N,), the index of each anchor's box, below 0 for those without.
            boxes_xyxy: B tensors (M, 4) of ground truth in pixels of the network input.
            coder_weights: Of the detector's box coder, by which Δ is multiplied.
            by_image: Whether the box loss is a mean over images of means over their positives, not one over all.
            max_positives: Of an image; where there are more, the loss draws so many of them at random.

        Returns:
            The same values as `regression`, with a gradient to the shapes besides; and a scalar.
        """
        shapes, log_wh = self.shapes, self.shapes.moving()
        shape_of_anchor = self.spread(torch.arange(len(log_wh), device=log_wh.device)[:, None])[:, 0]
        boxes_log_wh = [(boxes[:, 2:] - boxes[:, :2]).to(log_wh.dtype).log() for boxes in boxes_xyxy]
        options = (shapes.temperature, shapes.distance)
        found = [
            assign_matched(of_image, shape_of_anchor, shapes.level, box_log_wh, log_wh, *options)
            for of_image, box_log_wh in zip(matched, boxes_log_wh, strict=True)
        ]
        num_boxes = torch.stack([image.delta.any(1).sum() for image in found]).sum().clamp_min(1)
        num_positives = [len(image.anchor) for image in found]
        drawn = [min(num, max_positives) for num in num_positives]
        zeros = (log_wh - log_wh.detach()) * torch.tensor(coder_weights[2:], device=log_wh.device)
        moved, terms = list[Tensor](), log_wh.sum() * 0
        for index, (output, image, box_log_wh) in enumerate(zip(regression, found, boxes_log_wh, strict=True)):
            # The sum of weights that the loss divides by: with it no box counts more for what its image holds besides.
            total = drawn[index] * len(found) if by_image else sum(drawn)
            rarity = num_positives[index] / max(1, drawn[index])  # of a positive anchor among those that are drawn
            weight = image.share * (total * rarity) / num_boxes
            shift = nn.functional.pad(zeros[image.shape] * weight[:, None], (2, 0))
            moved.append(output.index_add(0, image.anchor, shift.to(output.dtype)))
            terms = terms + clustering_loss(log_wh, box_log_wh, image.delta, num_boxes)
        # Without boxes and once λ is 0 the gradient is zeros, not None: DDP would wait for it for ever.
        return torch.stack(moved), shapes.clustering_weight * terms


class LearnableAnchorGenerator(LearnableAnchors, AnchorGenerator):
    """`AnchorGenerator` whose shapes are parameters; made by `make_anchors_learnable`."""

    def __init__(self, stock: AnchorGenerator, learn: bool) -> None:
        super().__init__(stock.sizes, stock.aspect_ratios)
        cells = [cell.detach().float().cpu() for cell in stock.cell_anchors]
        self.shapes = LevelShapes(torch.cat(cells), [len(cell) for cell in cells], learn=learn)
        self._num_positions = []

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Takes the shapes as they are now. Never below float32: bfloat16 rounds a side of 300 to 2 pixels."""
        cells = self.shapes.cells().detach().to(dtype=torch.promote_types(dtype, torch.float32), device=device)
        self.cell_anchors = list(cells.split(self.shapes.num_per_level))

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each image, (N, 4), without gradient."""
        if self.training:
            self.shapes.keep_in_bounds()
        self._num_positions = [math.prod(map_.shape[-2:]) for map_ in feature_maps]
        anchors: list[Tensor] = super().forward(image_list, feature_maps)
        return anchors

    def to_torchvision(self) -> AnchorGenerator:
        """A stock generator with the shapes as they are now."""
        generator = AnchorGenerator(self.sizes, self.aspect_ratios)
        generator.cell_anchors = [c.clone() for c in self.shapes.cells().detach().split(self.shapes.num_per_level)]
        return generator


class LearnableDefaultBoxes(LearnableAnchors, DefaultBoxGenerator):
    """`DefaultBoxGenerator` (SSD) whose shapes, shares of the fixed input's width and height, are parameters."""

    def __init__(self, stock: DefaultBoxGenerator, size: tuple[int, int], learn: bool) -> None:
        super().__init__(stock.aspect_ratios, scales=stock.scales, steps=stock.steps, clip=stock.clip)
        pairs = torch.cat([pair.detach().float().cpu() for pair in stock._wh_pairs])
        half = (pairs.clamp(0, 1) if self.clip else pairs) / 2
        self.shapes = LevelShapes(
            torch.cat([-half, half], 1), [len(pair) for pair in stock._wh_pairs], (size[0], size[1]), learn=learn
        )
        self._num_positions = []
        self._cache: tuple[Any, Tensor, Tensor] | None = None
        # The logarithms that the shapes were made with: a GPU's may round otherwise, and would move them.
        self._limits: list[float] = self.shapes.unit[:2].log().tolist()

    def pairs(self) -> Tensor:
        """(A, 2) width and height of the shapes as shares of the network input, clipped as the stock class does."""
        cells = self.shapes.cells().detach()
        pairs = cells[:, 2:] - cells[:, :2]
        return pairs.clamp(0, 1) if self.clip else pairs

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The default boxes of each image, (N, 4) in pixels, without gradient."""
        if self.training:
            self.shapes.keep_in_bounds()
        if self.clip and self.training:
            with torch.no_grad():  # the boxes placed are clipped: the shape must not drift away from them
                for side, limit in zip(self.shapes.log_wh.unbind(1), self._limits, strict=True):
                    side.clamp_(max=limit)
        centres, size = self._centres(image_list, feature_maps)
        half = 0.5 * self.spread(self.pairs())
        boxes = torch.cat([(centres - half) * size, (centres + half) * size], -1)
        return [boxes for _ in image_list.image_sizes]

    def _centres(self, image_list: ImageList, feature_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(N, 2) centres as shares of the network input, and its width and height; made once for a size."""
        grid_sizes = [tuple(map_.shape[-2:]) for map_ in feature_maps]
        self._num_positions = [height * width for height, width in grid_sizes]
        height, width = image_list.tensors.shape[-2:]
        dtype = torch.promote_types(feature_maps[0].dtype, torch.float32)
        key = (grid_sizes, height, width, dtype, feature_maps[0].device)
        if self._cache is None or self._cache[0] != key:
            place: Any = super()._grid_default_boxes
            boxes: Tensor = place(grid_sizes, [height, width], dtype=dtype).to(feature_maps[0].device)
            self._cache = (key, boxes[:, :2], torch.tensor([width, height], device=boxes.device))
        return self._cache[1:]

    def to_torchvision(self) -> DefaultBoxGenerator:
        """A stock generator with the shapes as they are now."""
        generator = DefaultBoxGenerator(self.aspect_ratios, scales=self.scales, steps=self.steps, clip=self.clip)
        generator._wh_pairs = [pair.clone() for pair in self.pairs().cpu().split(self.shapes.num_per_level)]
        return generator
