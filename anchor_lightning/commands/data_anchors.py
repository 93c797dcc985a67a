"""Anchor shapes for boxes, those of a data set or given as numbers: what `anchors fit` and `score` do, and Python may.

Shape letters: N boxes, A anchor shapes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from anchor_lightning.commands.anchor_numbers import Point, elbow, fit_numbers, numbers_of
from anchor_lightning.commands.anchor_tables import named_values, size_text
from anchor_lightning.commands.sources import frame_remarks, read_shapes
from anchor_lightning.data import AnnotatedSet, module_name
from anchor_lightning.data.checks import parse_image_size
from anchor_lightning.data.reading import box_shapes, read_data
from anchor_lightning.errors import UserError, check_choice, whole_number
from anchor_lightning.fitting import FitMethod, check_distinct, fit_shapes
from anchor_lightning.fitting.formats import RESIZED, AnchorSet, Resized
from anchor_lightning.fitting.objectives import RATIO_THRESHOLD, Objective
from anchor_lightning.fitting.score import AnchorScore, score_shapes
from anchor_lightning.messages import warn

MAX_SEED: Final = 2**32 - 1  # as Lightning's, numpy's largest
Resize = Literal["stretch", "letterbox"]
BoxSource = str | Path | AnnotatedSet | Tensor | np.ndarray[Any, Any] | Sequence[Sequence[float]]
ShapeSource = str | Path | AnchorSet | Tensor | np.ndarray[Any, Any] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Boxes:
    """The boxes that shapes are fitted to or scored on.

    Attributes:
        wh: (N, 2) float32 widths and heights in pixels of the network input.
        classes: (N,) int64 class indices; empty for boxes that were given as numbers.
        text: What they are, in words.
        image_size: Height and width of the network input in pixels, if known.
        resize: How images got to that size, if known.
        per_image: Mean number of boxes of an image, if known.
    """

    wh: Tensor
    classes: Tensor
    text: str
    image_size: tuple[int, int] | None = None
    resize: Resized | None = None
    per_image: float | None = None


@dataclass(frozen=True)
class FittedAnchors:
    """Anchor shapes fitted to boxes, and how well they fit them.

    Attributes:
        anchors: The shapes: `anchors.wh` is (A, 2) float32 in pixels of the network input, smallest area first.
        score: Their score on the boxes.
        boxes: The boxes; `boxes.wh` is (N, 2) float32 in the same pixels.
        tried: What every number of a range of numbers gave; a single entry for a single number.
        chosen: The place of these shapes in `tried`.
        seconds: What the fit took, without reading the data.
    """

    anchors: AnchorSet
    score: AnchorScore
    boxes: Boxes
    tried: list[Point]
    chosen: int
    seconds: float


def fit_anchors(
    data: BoxSource,
    num: int | str = 5,
    levels: int = 1,
    image_size: int | Sequence[int] | None = None,
    method: FitMethod = "ascent",
    objective: Objective = "iou",
    resize: Resize | None = None,
    seed: int = 0,
) -> FittedAnchors:
    """Fits anchor shapes to boxes, without training: the command `anchors fit`, which prints and writes the result.

    Args:
        data: The path of a data set, whose kind is found as by `--data PATH`, and whose training boxes count; such a
            set as `read_data` gives it, all of whose images are training images from then on; or boxes: (N, 2) widths
            and heights > 0, in pixels of the network input.
        num: Number of shapes A, of all levels together: 9 with 3 levels for YOLOv3 and YOLOv5. A range, as in
            `"2..12"`, fits every number of it and takes the elbow.
        levels: Levels of the detector's head; the shapes are sorted by area and divided among them, smallest first.
        image_size: Side, or [height, width], of the network input in pixels, multiples of 32; that of the data set (416
            by a path) if not given. Boxes that are given are in its pixels already; it is noted with the shapes.
        method: `ascent`: gradient ascent on the objective; `kmeans`: IoU k-means as in YOLOv2; `learned`: the paper's
            schedule and loss on the boxes alone, for data sets only.
        objective: What `ascent` climbs: `iou`, the mean best IoU, or `ratio`, the fitness of YOLOv5's autoanchor.
        resize: How images get to the network's size: `stretch` (a data set's default) as in darknet, or `letterbox`,
            aspect kept, as in YOLOv5 and mmdet. With boxes that are given it is noted with the shapes.
        seed: Of the starts, from 0 to 2³² - 1; equal arguments give equal shapes.

    Returns:
        The shapes with their score.

    Raises:
        UserError: The data set cannot be read, boxes are not (N, 2) positive finite numbers, there are fewer distinct
            ones than shapes, an option is none of those above, or the numbers do not fit together.
    """
    levels, seed = whole_number(levels, "levels"), whole_number(seed, "seed")
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"{seed}; give a number from 0 to {MAX_SEED}", "seed")
    numbers = numbers_of(num, levels)
    boxes = boxes_of(data, image_size, resize)
    if method == "learned" and boxes.per_image is None:
        raise UserError("learned counts the boxes of an image; give a data set, not its boxes", argument="method")
    check_distinct(boxes.wh, max(numbers), levels)

    def fitted(count: int) -> Tensor:
        return fit_shapes(boxes.wh, count, method, boxes.image_size, boxes.per_image, seed, objective)

    begin = time.perf_counter()
    tried = fit_numbers(boxes.wh, numbers, fitted, objective)
    seconds = time.perf_counter() - begin
    chosen = elbow(numbers, [point.value for point in tried]) if len(tried) > 1 else 0
    wh, score, _ = tried[chosen]
    source = f"anchors fit --method {method} --objective {objective} on {boxes.text}"
    values = named_values(score, RATIO_THRESHOLD)
    anchors = AnchorSet(wh, (), source, boxes.image_size, values, boxes.resize).in_levels(levels)
    return FittedAnchors(anchors, score, boxes, tried, chosen, seconds)


def score_anchors(
    data: BoxSource,
    shapes: ShapeSource,
    image_size: int | Sequence[int] | None = None,
    resize: Resize | None = None,
    ratio_threshold: float = RATIO_THRESHOLD,
) -> AnchorScore:
    """Scores anchor shapes on boxes, as the command `anchors score` does.

    Args:
        data: A data set or boxes, as `fit_anchors` takes them.
        shapes: (A, 2) widths and heights > 0 in pixels of the network input; a set of shapes as in
            `FittedAnchors.anchors`; or what `--shapes` takes: the path of a file, checkpoint or run, or a name
            (`"yolov2-voc"`). A set that is for another network input than the boxes is warned of.
        image_size: See `fit_anchors`.
        resize: See `fit_anchors`.
        ratio_threshold: > 1; a box is recalled if both its sides are within this factor of a shape's (YOLOv5's
            anchor_t).

    Returns:
        Mean best IoU, recalls and usage; shares are in [0, 1].

    Raises:
        UserError: The data or the shapes cannot be read or are not positive finite numbers, there are no boxes, or the
            threshold is out of range.
    """
    anchors, name = _shapes_of(shapes)
    boxes = boxes_of(data, image_size, resize)
    check_distinct(boxes.wh, 1)
    for remark in frame_remarks(name, anchors, boxes.image_size, boxes.resize):
        warn(f"{name or 'shapes'}: {remark}")
    return score_shapes(boxes.wh, anchors.wh, ratio_threshold=ratio_threshold)


def boxes_of(data: BoxSource, image_size: int | Sequence[int] | None = None, resize: Resize | None = None) -> Boxes:
    """The boxes of a source; for the arguments and errors see `fit_anchors`."""
    if resize is not None:
        check_choice(resize, Resize, "resize")
    size = None if image_size is None else parse_image_size(image_size, "image_size")
    if isinstance(data, str | Path):
        data = read_data(data)
    if not isinstance(data, AnnotatedSet):
        wh = _sides(data, "data")
        frame = "" if size is None else f"; network input {size_text(size)}"
        return Boxes(wh, torch.empty(0, dtype=torch.int64), f"{len(wh):,} boxes{frame}", size, resize)
    data.image_size = size or data.image_size
    resized: Resized = "native" if data.native_crop else resize or "stretch"
    wh, classes = box_shapes(data, letterbox=resize == "letterbox")
    images = len(data.records("train"))
    where = data.root or getattr(data, "data_yaml", None) or ""
    name = " ".join(filter(None, (module_name(type(data).__name__), str(where), data.split_name("train"))))
    text = (
        f"{len(wh):,} boxes of {images:,} images, {name}; network input {size_text(data.image_size)}, images "
        f"{RESIZED[resized]}"
    )
    return Boxes(wh, classes, text, data.image_size, resized, len(wh) / images)


def _shapes_of(shapes: ShapeSource) -> tuple[AnchorSet, str | None]:
    """The set, and what named it, if anything did."""
    if isinstance(shapes, AnchorSet):
        return shapes, None
    if isinstance(shapes, str | Path):
        return read_shapes(str(shapes)), str(shapes)
    return AnchorSet(_sides(shapes, "shapes")), None


def _sides(values: Any, argument: str) -> Tensor:
    """(N, 2) float32 positive finite sides of an array, a tensor or a list of pairs."""
    try:
        wh = values.detach().cpu().float() if isinstance(values, Tensor) else torch.tensor(np.asarray(values, "f4"))
    except (TypeError, ValueError):
        wh = torch.empty(0)
    if wh.ndim != 2 or wh.shape[1] != 2 or len(wh) == 0:
        raise UserError("give (N, 2) widths and heights in pixels of the network input, or a path", argument)
    if len(bad := wh[~((wh > 0) & wh.isfinite()).all(1)]):
        raise UserError(
            f"{len(bad)} of {len(wh)} sizes are not positive and finite, {bad[0].tolist()} for one", argument
        )
    return wh
