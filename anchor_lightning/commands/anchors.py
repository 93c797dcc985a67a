"""Anchors for a data set without training a detector: fit, score, export."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.commands.anchor_tables import anchor_table, named_values, score_table, short_labels, usage_table
from anchor_lightning.commands.sources import box_shapes, read_shapes
from anchor_lightning.data import DetectionDataModule
from anchor_lightning.data.checks import parse_image_size
from anchor_lightning.errors import UserError
from anchor_lightning.fitting import FitMethod, check_distinct, fit_shapes
from anchor_lightning.fitting.formats import RESIZED, AnchorSet, Resized, Target, anchors_text, export_notes
from anchor_lightning.fitting.score import RATIO_THRESHOLD, AnchorScore, score_shapes, size_groups
from anchor_lightning.training.files import atomic_files
from anchor_lightning.visualization.anchor_plots import anchor_figure, save_figure

Resize = Literal["stretch", "letterbox"]


def fit(
    data: DetectionDataModule,
    num: int = 5,
    levels: int = 1,
    image_size: int | list[int] | None = None,
    method: FitMethod = "ascent",
    resize: Resize = "stretch",
    seed: int = 0,
    output: str = "anchors.json",
) -> AnchorSet:
    """Fits anchor shapes to the training boxes of a data set, in about a second.

    Args:
        data: The data set.
        num: Number of shapes, of all levels together: 9 with 3 levels for YOLOv3 and YOLOv5.
        levels: Levels of the detector's head; the shapes are sorted by area and divided among them, smallest first.
        image_size: Side, or [height, width], of the network input in pixels; that of the data set if not given.
        method: `ascent`: gradient ascent on the mean best IoU; `kmeans`: IoU k-means as in YOLOv2; `learned`: the
            paper's schedule and loss on the boxes alone.
        resize: How images get to the network's size: `stretch` as here and in darknet, or `letterbox`, aspect kept, as
            in YOLOv5 and mmdet.
        seed: Of the starts.
        output: JSON file with the shapes, for `anchors export` and `anchors score`; one that is there is replaced.

    Returns:
        The shapes with their score.

    Raises:
        UserError: The data set cannot be read, has too few boxes, the numbers do not fit together, or the file cannot
            be written.
    """
    for name, number in (("num", num), ("levels", levels)):
        if number < 1:
            raise UserError(f"{number}; give 1 or more", name)
    if num % levels:
        raise UserError(f"{num} shapes cannot be divided equally among {levels} levels; give 9 for 3, say", "num")
    boxes, _ = _boxes(data, image_size, resize)
    check_distinct(boxes, num)
    begin = time.perf_counter()
    wh = fit_shapes(boxes, num, method, data.image_size, len(boxes) / len(data.records("train")), seed)
    seconds = time.perf_counter() - begin
    result = score_shapes(boxes, wh)
    where, values = _describe(data, boxes, resize), named_values(result, RATIO_THRESHOLD)
    source = f"anchors fit --method {method} on {where}"
    anchors = AnchorSet(wh, levels, source, data.image_size, values, _resized(data, resize))
    print(where)
    print(f"{method}, {seconds:.1f} s:", ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
    print(f"In pixels of the network input:\n{anchor_table(anchors, result)}")
    with atomic_files(Path(output)) as (path,):
        path.write_text(anchors_text(anchors, "json"), encoding="utf-8")
    to = "darknet" if levels == 1 else "ultralytics"
    print(f"\nWrote {output}. Next, for the detector that you run (darknet, ultralytics, mmdet, torchvision):")
    print(f"  python -m anchor_lightning anchors export --shapes {shlex.quote(output)} --to {to}")
    if levels > 1 and resize == "stretch":
        print("YOLOv5 and mmdet keep the aspect of images: fit for them with --resize letterbox.")
    return anchors


def score(
    data: DetectionDataModule,
    shapes: list[str],
    image_size: int | list[int] | None = None,
    resize: Resize = "stretch",
    ratio_threshold: float = RATIO_THRESHOLD,
    output: str | None = "anchors.png",
) -> list[AnchorScore]:
    """Scores one or several sets of anchor shapes side by side on the training boxes of a data set.

    Args:
        data: The data set.
        shapes: One or several sets, each as `read_shapes` takes it.
        image_size: Side, or [height, width], of the network input in pixels; that of the data set if not given.
        resize: How images get to the network's size: `stretch` as here and in darknet, or `letterbox`, aspect kept, as
            in YOLOv5 and mmdet.
        ratio_threshold: A box is recalled if both its sides are within this factor of a shape's (YOLOv5's anchor_t).
        output: File of the log w - log h figure, a PNG; one that is there is replaced, null draws none.

    Returns:
        The scores, in the order of `shapes`.

    Raises:
        UserError: The data set or a set of shapes cannot be read, there are no boxes, the threshold is not above 1,
            or the figure cannot be written.
    """
    sets = [read_shapes(given) for given in shapes]
    labels = short_labels(shapes)
    boxes, classes = _boxes(data, image_size, resize)
    check_distinct(boxes, 1)
    scores = [score_shapes(boxes, anchors.wh, ratio_threshold=ratio_threshold) for anchors in sets]
    augmented: list[float] = []
    if resize == "stretch":  # as this project's training does
        shown = data.train_box_shapes(augmented=True)
        augmented = [mean_best_iou(shown, anchors.wh) for anchors in sets]
    groups = size_groups(boxes), classes, data.class_names
    print(_describe(data, boxes, resize))
    print(score_table(labels, scores, ratio_threshold, *groups, augmented))
    for label, anchors, result in zip(labels, sets, scores, strict=True):
        print(f"\n{label}, in pixels of the network input (anchor: the shape's index in the set):")
        print(anchor_table(anchors, result))
        print(usage_table(anchors, result, *groups))
        if anchors.image_size and anchors.image_size != data.image_size:
            print(f"These shapes were made for another input, {_size(anchors.image_size)}.")
        if anchors.resize not in (None, _resized(data, resize)):
            print(f"These shapes were fitted with images {RESIZED[anchors.resize]}, not as here.")
    if output is not None:
        named = {label: anchors.wh.numpy() for label, anchors in zip(labels, sets, strict=True)}
        with atomic_files(Path(output)) as (path,):
            save_figure(anchor_figure(boxes.numpy(), named), path)
        print(f"\nWrote {output}")
    return scores


def export(
    shapes: str, to: Target, levels: int | None = None, version: int | None = None, output: str | None = None
) -> str:
    """Writes anchor shapes as text that another tool takes as it stands, in its units and order.

    Args:
        shapes: A JSON file of `anchors fit`, a checkpoint, a run folder (the last step of its anchors.csv), a darknet
            .cfg, yolov2-voc, yolov2-coco, uniform, or pairs in pixels as '[[10,13],[33,23]]'.
        to: `darknet` (layers of a .cfg), `ultralytics` (`anchors:` of a YOLOv5 or YOLOv3 model yaml), `mmdet` (a config
            with a YOLOAnchorGenerator), `torchvision` (Python that makes an AnchorGenerator), or `json`.
        levels: Levels of the detector's head, among which the shapes are divided by area; what the JSON file says if
            not given, else 1.
        version: Of darknet's YOLO: 2 writes grid units for [region], 3 pixels for [yolo]; if not given 2 for one level
            and 3 for several.
        output: The file, replaced if it is there; printed if not given. What to heed is printed beside it, on stderr.

    Returns:
        The text.

    Raises:
        UserError: The shapes cannot be read, or the tool cannot express them.
    """
    anchors = read_shapes(shapes)
    anchors = anchors if levels is None else replace(anchors, levels=levels)
    text = anchors_text(anchors, to, version)
    if output is None:
        print(text, end="")
    else:
        with atomic_files(Path(output)) as (path,):
            path.write_text(text, encoding="utf-8")
        print(f"Wrote {output}")
    for note in export_notes(anchors, to):
        print(f"Note: {note}", file=sys.stderr)  # what is printed may go on to a file
    return text


def _boxes(data: DetectionDataModule, image_size: int | list[int] | None, resize: Resize) -> tuple[Tensor, Tensor]:
    if image_size is not None:
        data.image_size = parse_image_size(image_size, "image_size")
    return box_shapes(data, letterbox=resize == "letterbox")


def _resized(data: DetectionDataModule, resize: Resize) -> Resized:
    return "native" if data.native_crop else resize


def _size(image_size: tuple[int, int]) -> str:
    return f"{image_size[1]} x {image_size[0]} pixels (w x h)"


def _describe(data: DetectionDataModule, boxes: Tensor, resize: Resize) -> str:
    where = data.root or getattr(data, "data_yaml", None) or ""
    name = " ".join(filter(None, (type(data).__name__, str(where), data.split_name("train"))))
    return (
        f"{len(boxes):,} boxes of {len(data.records('train')):,} images, {name}; network input "
        f"{_size(data.image_size)}, images {RESIZED[_resized(data, resize)]}"
    )
