"""First shapes: §4.2.1's initialisations, the published YOLOv2 centres, or an explicit list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor

from anchor_lightning.anchors.shapes import check_positive
from anchor_lightning.errors import UserError

MAX_SHAPES: Final = 1000
IDENTICAL_SPREAD: Final = 0.002  # in nats, of the smallest and the largest from the stated one
GRID_UNIT: Final = 32  # pixels of a grid unit, in which the paper and darknet state shapes, at any image size

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
    # Those of YOLOv3's configuration, there in pixels at 416: three for each of strides 8, 16 and 32.
    "yolov3-coco": tuple(
        (w / GRID_UNIT, h / GRID_UNIT)
        for w, h in (
            *((10, 13), (16, 30), (33, 23)),
            *((30, 61), (62, 45), (59, 119)),
            *((116, 90), (156, 198), (373, 326)),
        )
    ),
}
NAMED_LEVELS: Final[dict[str, tuple[int, ...]]] = {"yolov3-coco": (3, 3, 3)}
"""Number of shapes on each level, the smallest stride first, of the named sets for heads with several levels."""

AnchorInit = str | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]


@dataclass
class AnchorOptions:
    """How the shapes start and learn.

    Args:
        init: `kmeans` (on the training boxes), `identical`, `uniform`, `yolov2-voc`, `yolov2-coco`, `yolov3-coco`, the
            path of a file with shapes (the JSON of `anchors fit`, a darknet `.cfg`, a model `.yaml` of the YOLOv5
            repository, a config `.py` of mmdet), a list of [width, height] in pixels of the network input, or such a
            list for each level of the head, the smallest stride first, as a file with levels has them. torchvision's
            detectors take `model` (their own), `kmeans`, `uniform` and `identical` (level by level), a file or a list.
        num: Number of shapes; if not given 5 (YOLOv3: 9), or as many as a named set, a list or the detector itself has.
        learn: Whether the shapes are trained; false freezes them.
        lr_mult: Factor on the learning rate of the shapes.
    """

    init: str | list[list[float]] | list[list[list[float]]] = "kmeans"
    num: int | None = None
    learn: bool = True
    lr_mult: float = 1.0


def anchor_options(given: dict[str, Any]) -> AnchorOptions:
    """The options in a dict.

    Raises:
        UserError: A key is unknown.
    """
    known = {field.name for field in fields(AnchorOptions)}
    if unknown := sorted(set(given) - known):
        raise UserError(f"unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}", argument="anchors")
    return AnchorOptions(**given)


def split_levels(
    init: Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]],
) -> tuple[list[list[float]], list[int] | None]:
    """The [w, h] of a list of shapes, level after level, and their number on each level; None where it has no levels.

    Raises:
        UserError: A level has no shapes, or only some of the items are levels.
    """
    nested = [[side for side in item if isinstance(side, Sequence)] for item in init]
    if not any(nested):
        return [list(shape) for shape in init], None  # type: ignore[arg-type]
    if any(not level or len(level) != len(item) for level, item in zip(nested, init, strict=True)):
        raise UserError(
            f"a list of levels has shapes [w, h] on each, as in [[[10, 13], [16, 30]], [[62, 45]]]; got {init}",
            argument="anchors.init",
        )
    return [list(shape) for level in nested for shape in level], [len(level) for level in nested]


def num_shapes(init: AnchorInit, num: int | None, default: int = 5) -> int:
    """The number of shapes A that `init` and `num` of `AnchorOptions` ask for; `default` if they leave it open.

    Raises:
        UserError: `init` is unknown, or has another number of shapes than `num`.
    """
    if num is not None and not 1 <= num <= MAX_SHAPES:
        raise UserError(f"{num} shapes; give 1 to {MAX_SHAPES}", argument="anchors.num")
    if not isinstance(init, str):
        natural = len(split_levels(init)[0])
        if natural == 0:
            raise UserError("the list of shapes is empty; give [[w, h], ...] in pixels", argument="anchors.init")
    elif init in NAMED_GRID_UNITS:
        natural = len(NAMED_GRID_UNITS[init])
    elif init in ("kmeans", "identical"):
        return default if num is None else num
    else:
        known = ", ".join(["kmeans", "identical", *NAMED_GRID_UNITS])
        raise UserError(
            f"unknown '{init}'; known are {known}, the path of a file with shapes (.json of `anchors fit`, darknet's "
            ".cfg, YOLOv5's .yaml, mmdet's .py), or a list [[w, h], ...] in pixels",
            argument="anchors.init",
        )
    if num not in (None, natural):
        name = f"'{init}'" if isinstance(init, str) else "the list"
        raise UserError(
            f"{num}, but {name} has {natural} shapes; leave num out, or use init kmeans or identical, which make any "
            "number",
            argument="anchors.num",
        )
    return natural


def identical_shapes(wh: Tensor, num: int, learn: bool) -> Tensor:
    """(num, 2) copies of a shape (2,); those that learn are spread evenly over ±0.2 %, the smallest first.

    Shapes that learn and are equal to the bit part by the network's first outputs alone: rounding (another precision,
    device or number of processes) would decide which of them becomes the small one.
    """
    spread = torch.linspace(-IDENTICAL_SPREAD, IDENTICAL_SPREAD, num) if learn and num > 1 else torch.zeros(num)
    return wh * spread.to(wh).exp()[:, None]


def initial_shapes(init: AnchorInit, num: int | None = None, learn: bool = False) -> Tensor | None:
    """The (A, 2) float32 shapes of `init` in pixels of the network input; None for `kmeans`, which needs boxes.

    With `learn` those of `identical` are so within 0.2 % (see `identical_shapes`).

    Raises:
        UserError: As `num_shapes`; or a side is not positive.
    """
    count = num_shapes(init, num)
    if init == "kmeans":
        return None
    if init == "identical":
        return identical_shapes(torch.full((2,), 5.0 * GRID_UNIT), count, learn)
    if isinstance(init, str):
        return torch.tensor(NAMED_GRID_UNITS[init], dtype=torch.float64).mul(GRID_UNIT).float()
    shapes = split_levels(init)[0]
    if any(len(shape) != 2 for shape in shapes):
        raise UserError(f"every shape is [w, h] in pixels, got {shapes}", argument="anchors.init")
    wh = torch.tensor(shapes, dtype=torch.float32)
    check_positive(wh, "anchors.init")
    return wh
