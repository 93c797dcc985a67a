"""Anchors for a data set without training a detector: fit, score, export."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.commands.anchor_numbers import draw_numbers, numbers_table
from anchor_lightning.commands.anchor_tables import (
    anchor_table,
    best_text,
    score_table,
    short_labels,
    summary_table,
    usage_table,
    verdict_text,
)
from anchor_lightning.commands.data_anchors import Resize, boxes_of, fit_anchors
from anchor_lightning.commands.reporting import PROGRAM
from anchor_lightning.commands.sources import frame_remarks, read_shapes
from anchor_lightning.data import AnnotatedSet
from anchor_lightning.errors import UserError
from anchor_lightning.fitting import FitMethod, check_distinct
from anchor_lightning.fitting.formats import (
    GRID_TARGETS,
    AnchorSet,
    Target,
    anchors_text,
    export_notes,
    targets_for,
)
from anchor_lightning.fitting.formats.grid_writers import SHARED, grid_text
from anchor_lightning.fitting.formats.writers import check_equal_levels
from anchor_lightning.fitting.objectives import RATIO_THRESHOLD, Objective
from anchor_lightning.fitting.score import AnchorScore, judge, score_shapes, size_groups
from anchor_lightning.fitting.size_grids import fit_size_grid
from anchor_lightning.training.files import atomic_files


def fit(
    data: AnnotatedSet,
    num: int | str = 5,
    levels: int = 1,
    image_size: int | list[int] | None = None,
    method: FitMethod = "ascent",
    objective: Objective = "iou",
    resize: Resize = "stretch",
    seed: int = 0,
    output: str = "anchors.json",
    data_words: list[str] | None = None,
) -> AnchorSet:
    """Fits anchor shapes to the training boxes of a data set.

    Args:
        data: The data set.
        num: Number of shapes, of all levels together: 9 with 3 levels for YOLOv3 and YOLOv5. A range, as in 2..12, fits
            every number of it and takes the elbow, with a table, and `anchors-numbers.png` beside `output`.
        levels: Levels of the detector's head; the shapes are sorted by area and divided among them, smallest first.
        image_size: Side, or [height, width], of the network input in pixels; that of the data set if not given.
        method: `ascent`: gradient ascent on the objective; `kmeans`: IoU k-means as in YOLOv2; `learned`: the paper's
            schedule and loss on the boxes alone.
        objective: What `ascent` climbs: `iou`, the mean best IoU, or `ratio`, the fitness of YOLOv5's autoanchor (the
            smaller ratio of sides with the best shape, 0 below 1/4).
        resize: How images get to the network's size: `stretch` as here and in darknet, or `letterbox`, aspect kept, as
            in YOLOv5 and mmdet.
        seed: Of the starts.
        output: JSON file (`.json`) with the shapes, for `fit --model.anchors.init`, `anchors export` and `anchors
            score`; one that is there is replaced.
        data_words: What named the data set on the command line, for the command that is printed.

    Returns:
        The shapes with their score.

    Raises:
        UserError: The data set cannot be read, has too few boxes, the numbers do not fit together, or the file cannot
            be written, or has another suffix.
    """
    if Path(output).suffix.lower() != ".json":
        raise UserError(f"{output}: name it with .json behind, by which it is read again", "output")
    found = fit_anchors(data, num, levels, image_size, method, objective, resize, seed)
    anchors, points = found.anchors, found.tried
    print(found.boxes.text)
    if len(points) > 1:
        figure = Path(output).with_name(f"{Path(output).stem}-numbers.png")  # `score` draws anchors.png
        draw_numbers(points, found.chosen, objective, figure)
        print(numbers_table(points, found.chosen, objective))
        first, last = len(points[0].wh), len(points[-1].wh)
        print(
            f"Suggested: {len(anchors.wh)} shapes, the elbow: highest above the line from {first} to {last} in "
            f"{figure}. --num N takes another number."
        )
    values = ", ".join(f"{name} {value:.4f}" for name, value in anchors.score.items())
    print(f"{method}, {found.seconds:.1f} s: {values}")
    print(f"In pixels of the network input:\n{anchor_table(anchors, found.score)}")
    verb = "Replaced" if Path(output).exists() else "Wrote"
    with atomic_files(Path(output)) as (path,):
        path.write_text(anchors_text(anchors, "json"), encoding="utf-8")
    print(f"\n{verb} {output}. Next:\n{_next_commands(anchors, output, data_words or [])}")
    if levels > 1 and resize == "stretch":
        print("YOLOv5 and mmdet keep the aspect of images: fit for them with --resize letterbox.")
    return anchors


def score(
    data: AnnotatedSet,
    shapes: list[str],
    image_size: int | list[int] | None = None,
    resize: Resize = "stretch",
    ratio_threshold: float = RATIO_THRESHOLD,
    details: bool = False,
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
        details: Whether to print every shape, and the measures by size and class, too.
        output: File of the log w - log h figure, a PNG; one that is there is replaced, null draws none.

    Returns:
        The scores, in the order of `shapes`.

    Raises:
        UserError: The data set or a set of shapes cannot be read, there are no boxes, the threshold is not above 1,
            or the figure cannot be written.
    """
    sets = [read_shapes(given) for given in shapes]
    labels = short_labels(shapes)
    boxes = boxes_of(data, image_size, resize)
    check_distinct(boxes.wh, 1)
    scores = [score_shapes(boxes.wh, anchors.wh, ratio_threshold=ratio_threshold) for anchors in sets]
    drawn = ""
    if output is not None:
        from anchor_lightning.visualization.anchor_plots import anchor_figure, save_figure  # imports matplotlib

        named = {label: anchors.wh.numpy() for label, anchors in zip(labels, sets, strict=True)}
        with atomic_files(Path(output)) as (path,):
            save_figure(anchor_figure(boxes.wh.numpy(), named, num_per_level=sets[0].per_level), path)
        drawn = f"; figure: {output}"
    print(f"{boxes.text}{drawn}")
    print(summary_table(labels, scores, ratio_threshold))
    if len(sets) > 1:
        print(best_text(labels, scores, ratio_threshold))
    for label, anchors, result in zip(labels, sets, scores, strict=True):
        name = f"{label}: " if len(sets) > 1 else ""
        print(f"{name}{verdict_text(judge(boxes.wh, anchors.wh), result, anchors.levels)}")
    for label, given, anchors in zip(labels, shapes, sets, strict=True):
        for remark in frame_remarks(given, anchors, boxes.image_size, boxes.resize):
            print(f"{label}: {remark}")
    if details:
        augmented: list[float] = []
        if resize == "stretch":  # as this project's training does
            shown = data.train_box_shapes(augmented=True)
            augmented = [mean_best_iou(shown, anchors.wh) for anchors in sets]
        groups = size_groups(boxes.wh), boxes.classes, data.class_names
        print(f"\n{score_table(labels, scores, ratio_threshold, *groups, augmented)}")
        for label, anchors, result in zip(labels, sets, scores, strict=True):
            print(f"\n{label}, in pixels of the network input:")
            print(anchor_table(anchors, result))
            print(usage_table(result, *groups))
    return scores


def export(
    shapes: str,
    to: Target,
    data: AnnotatedSet | None = None,
    levels: int | None = None,
    version: int | None = None,
    output: str | None = None,
) -> str:
    """Writes anchor shapes as text that another tool takes as it stands, in its units and order.

    Args:
        shapes: One set, as `read_shapes` takes it.
        to: `darknet` (layers of a .cfg), `ultralytics` (`anchors:` of a YOLOv5 or YOLOv3 model yaml), `mmdet` (a config
            with a YOLOAnchorGenerator), `torchvision` (Python that makes an AnchorGenerator), or `json`. For generators
            that know sizes, scales and ratios only, these are fitted: `retinanet` (config.ini of keras-retinanet, and
            others of its kind), `detectron2`, `mmdet-anchor` (a config with an AnchorGenerator).
        data: The data set to whose training boxes sizes, scales and ratios are fitted, at the size that the shapes are
            for; if not given, they are fitted to the shapes instead.
        levels: Levels of the detector's head, among which the shapes are divided by area; what the shapes come with if
            not given.
        version: Of darknet's YOLO: 2 writes grid units for [region], 3 pixels for [yolo]; if not given 2 for one level
            and 3 for several.
        output: The file, replaced if it is there; printed if not given. What to heed is printed beside it, on stderr.

    Returns:
        The text.

    Raises:
        UserError: The shapes cannot be read, or the tool cannot express them.
    """
    anchors = read_shapes(shapes)
    anchors = anchors if levels is None else anchors.in_levels(levels)
    notes = export_notes(anchors, to)
    if to in GRID_TARGETS:
        if version is not None:
            raise UserError(f"it is for darknet (2 or 3); leave it out for {to}", argument="version")
        text, cost = _as_grid(anchors, to, data)
        notes = [cost, *notes]
    elif data is not None:
        raise UserError(f"it is for {', '.join(GRID_TARGETS)}; leave it out for {to}", argument="data")
    else:
        text = anchors_text(anchors, to, version)
    if output is None:
        print(text, end="")
    else:
        with atomic_files(Path(output)) as (path,):
            path.write_text(text, encoding="utf-8")
        print(f"Wrote {output}")
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)  # what is printed may go on to a file
    return text


def _as_grid(anchors: AnchorSet, to: Target, data: AnnotatedSet | None) -> tuple[str, str]:
    """The text with sizes, scales and ratios in the place of free shapes, and what these cost, in a sentence."""
    check_equal_levels(anchors, to)
    boxes, of = anchors.wh, "the free shapes taken as boxes, as no data set is given"
    if data is not None:
        # Whatever it is: no image is read, and SSD's 300 pixels are no multiple of 32.
        data.image_size = anchors.image_size or data.image_size
        found = boxes_of(data, None, "letterbox" if anchors.resize == "letterbox" else "stretch")
        check_distinct(found.wh, 1)
        boxes, of = found.wh, found.text
    grid = fit_size_grid(boxes, anchors.wh, anchors.levels, to in SHARED, whole_sizes=to == "retinanet")
    free, bound = mean_best_iou(boxes, anchors.wh), mean_best_iou(boxes, grid.wh)
    cost = f"mean best IoU {free:.4f} with free shapes, {bound:.4f} with sizes, scales and ratios, of {of}"
    return grid_text(anchors, grid, to, cost), cost


def _next_commands(anchors: AnchorSet, output: str, data_words: list[str]) -> str:
    """The commands that take the file of shapes: to train here, and for other tools."""
    height, width = anchors.image_size or (0, 0)
    size = str(width) if height == width else f"[{height},{width}]"
    configured = any(word.partition("=")[0] in ("--config", "-c") for word in data_words)
    train = ["fit", *([] if configured else ["--config", "small.yaml"]), *data_words]
    train += ["--data.image_size", size, "--model.anchors.init", output]
    first, *others = targets_for(anchors.levels)
    words = shlex.join(["anchors", "export", "--shapes", output, "--to", first])
    program, tools = f"python -m {PROGRAM}", ", ".join([*others, *GRID_TARGETS])
    return f"  {program} {shlex.join(train)}\n  {program} {words}\n    (or {tools})"
