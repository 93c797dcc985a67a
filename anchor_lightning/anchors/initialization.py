"""Where the shapes start: §4.2.1's initialisations, the published YOLOv2 centres, IoU k-means, or an explicit list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor

from anchor_lightning.anchors.iou import shape_iou
from anchor_lightning.anchors.shapes import check_positive

STRIDE: Final = 32
"""Pixels per grid unit of the named sets; they are defined in grid units and never rescaled with the image size."""

NAMED_GRID_UNITS: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "uniform": ((3, 3), (3, 9), (9, 9), (9, 3), (6, 6)),
    # The centres published with YOLOv2's configurations, which the paper's tables call "k-means".
    "yolov2-voc": ((1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071)),
    "yolov2-coco": (
        (0.57273, 0.677385),
        (1.87446, 2.06253),
        (3.33843, 5.47434),
        (7.88282, 3.52778),
        (9.77052, 9.16828),
    ),
}
IDENTICAL_GRID_UNITS: Final = (5.0, 5.0)
DEFAULT_NUM: Final = 5

MAX_ITERATIONS: Final = 300
NUM_RESTARTS: Final = 8
RESTART_SAMPLE: Final = 8192

AnchorInit = str | Sequence[Sequence[float]]


@dataclass
class AnchorOptions:
    """How the shapes start and learn (`model.anchors`).

    Args:
        init: `kmeans` (IoU k-means on the training boxes), `identical`, `uniform`, `yolov2-voc`, `yolov2-coco`, the
            path of a darknet `.cfg` (its grid units become pixels), or a list of [width, height] in pixels of the
            network input. Of torchvision's detectors: `model` (their own), `kmeans`, `uniform` and `identical` (level
            by level), or a list.
        num: Number of shapes; if not given 5, or as many as a named set or list has. Torchvision's detectors have
            theirs.
        learn: Whether the shapes are trained; false freezes them.
        lr_mult: Factor on the learning rate of the shapes.
    """

    init: str | list[list[float]] = "kmeans"
    num: int | None = None
    learn: bool = True
    lr_mult: float = 1.0


def anchor_options(given: dict[str, Any]) -> AnchorOptions:
    """The options in a dict.

    Raises:
        ValueError: A key is unknown.
    """
    known = {field.name for field in fields(AnchorOptions)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"model.anchors: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return AnchorOptions(**given)


def num_shapes(init: AnchorInit, num: int | None) -> int:
    """The number of shapes A that `init` and `num` ask for together.

    Args:
        init: `kmeans`, `identical`, `uniform`, `yolov2-voc`, `yolov2-coco`, or a list of [w, h] in pixels.
        num: The number asked for, or None for the natural one (5, or the length of the list).

    Raises:
        ValueError: `init` is unknown, or has another number of shapes than `num`.
    """
    if not isinstance(init, str):
        natural = len(init)
        if natural == 0:
            raise ValueError("model.anchors.init: the list of shapes is empty; give [[w, h], ...] in pixels")
    elif init in NAMED_GRID_UNITS:
        natural = len(NAMED_GRID_UNITS[init])
    elif init in ("kmeans", "identical"):
        if num is not None and num < 1:
            raise ValueError(f"model.anchors.num: {num} shapes; give 1 or more")
        return DEFAULT_NUM if num is None else num
    else:
        known = ", ".join(["kmeans", "identical", *NAMED_GRID_UNITS])
        raise ValueError(
            f"model.anchors.init: unknown '{init}'; known are {known}, the path of a darknet .cfg, "
            "or a list [[w, h], ...] in pixels"
        )
    if num not in (None, natural):
        name = f"'{init}'" if isinstance(init, str) else "the list"
        raise ValueError(
            f"model.anchors.num: {num}, but {name} has {natural} shapes; leave num out, or use init kmeans or "
            "identical, which make any number"
        )
    return natural


def initial_shapes(init: AnchorInit, num: int | None = None, box_wh: Tensor | None = None) -> Tensor | None:
    """The (A, 2) widths and heights that `init` stands for, in pixels of the network input.

    Args:
        init: As for `num_shapes`.
        num: As for `num_shapes`.
        box_wh: (N, 2) training boxes in pixels of the network input; only `kmeans` reads them.

    Returns:
        The shapes, or None for `kmeans` without boxes: they are not known yet.

    Raises:
        ValueError: As `num_shapes`; or a side is not positive; or there are fewer distinct boxes than shapes.
    """
    count = num_shapes(init, num)
    if init == "kmeans":
        return None if box_wh is None else kmeans_shapes(box_wh, count)
    if init == "identical":
        return torch.tensor([IDENTICAL_GRID_UNITS]).repeat(count, 1) * STRIDE
    if isinstance(init, str):
        return torch.tensor(NAMED_GRID_UNITS[init], dtype=torch.float64).mul(STRIDE).float()
    if any(len(shape) != 2 for shape in init):
        raise ValueError(f"model.anchors.init: every shape is [w, h] in pixels, got {[list(shape) for shape in init]}")
    wh = torch.tensor([list(shape) for shape in init], dtype=torch.float32)
    check_positive(wh)
    return wh


def mean_best_iou(box_wh: Tensor, wh: Tensor) -> float:
    """Mean over the boxes of the IoU with their best shape, in (0, 1]; NaN without boxes."""
    return float(shape_iou(box_wh[:, None], wh[None]).amax(1).mean())


def kmeans_shapes(box_wh: Tensor, num: int, seed: int = 0) -> Tensor:
    """k-means centres of box shapes with 1 - IoU as the distance, as YOLOv2 chooses its priors.

    Several k-means++ starts run on a sample of the boxes; the best of them is refined on all.

    Args:
        box_wh: (N, 2) widths and heights > 0.
        num: Number of centres.
        seed: Of the starts and the sample; equal arguments give equal centres.

    Returns:
        (num, 2) float32 centres, smallest area first.

    Raises:
        ValueError: There are no boxes, or fewer than `num` distinct shapes.
    """
    check_distinct(box_wh, num)
    boxes = box_wh.double()
    generator = torch.Generator().manual_seed(seed)
    sample = boxes[torch.randperm(len(boxes), generator=generator)[:RESTART_SAMPLE]]
    starts = [_lloyd(sample, _plus_plus(sample, num, generator)) for _ in range(NUM_RESTARTS)]
    best = max(starts, key=lambda centres: mean_best_iou(sample, centres))
    centres = _lloyd(boxes, best)
    return centres[centres.prod(1).argsort()].float()


def check_distinct(box_wh: Tensor, num: int) -> None:
    """Refuses (N, 2) boxes that k-means can make no `num` centres of.

    Raises:
        ValueError: There are no boxes, or fewer than `num` distinct shapes.
    """
    if len(box_wh) == 0:
        raise ValueError("model.anchors.init: kmeans, but the training split has no boxes; use another init or split")
    # A `unique` over all boxes of a large set costs more than the clustering; a sample mostly settles the question.
    if len(box_wh[:RESTART_SAMPLE].unique(dim=0)) < num and (distinct := len(box_wh.unique(dim=0))) < num:
        raise ValueError(
            f"model.anchors.num: {num} shapes from k-means, but the training boxes have only {distinct} distinct "
            f"shapes; ask for at most {distinct}, or use init identical"
        )


def _plus_plus(boxes: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeding: each further centre is a box drawn with probability proportional to (1 - best IoU)²."""
    centres = boxes[torch.randint(len(boxes), (1,), generator=generator)]
    while len(centres) < num:
        distance = (1 - shape_iou(boxes[:, None], centres[None]).amax(1)).clamp_min(0).square()
        if not distance.sum() > 0:  # fewer distinct shapes in the sample than centres
            distance = torch.ones_like(distance)
        centres = torch.cat([centres, boxes[torch.multinomial(distance, 1, generator=generator)]])
    return centres


def _lloyd(boxes: Tensor, centres: Tensor) -> Tensor:
    """Alternates nearest centre by IoU and mean of the members, and returns the best centres that were met.

    The mean does not maximise the IoU, so a step may lose a little: the best is kept rather than the last.
    """
    best, best_score, previous = centres, -1.0, None
    for _ in range(MAX_ITERATIONS):
        iou, nearest = shape_iou(boxes[:, None], centres[None]).max(1)
        if (score := float(iou.mean())) > best_score:
            best, best_score = centres, score
        if previous is not None and torch.equal(nearest, previous):
            break
        previous = nearest
        count = nearest.bincount(minlength=len(centres))
        total = torch.zeros_like(centres).index_add_(0, nearest, boxes)
        # A centre that lost all its members starts again at the box that is served worst.
        centres = torch.where(count[:, None] > 0, total / count[:, None].clamp_min(1), boxes[iou.argmin()])
    return best
