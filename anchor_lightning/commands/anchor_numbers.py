"""How many shapes: `anchors fit --num 2..12` fits every number and finds the elbow."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from torch import Tensor

from anchor_lightning.commands.anchor_tables import aligned
from anchor_lightning.errors import UserError, whole_number
from anchor_lightning.fitting.objectives import RATIO_THRESHOLD, Objective, best_fit
from anchor_lightning.fitting.score import AnchorScore, score_shapes
from anchor_lightning.training.files import atomic_files

MAX_NUMBERS: Final = 30  # each takes about a second on a large set


def numbers_of(num: int | str, levels: int) -> list[int]:
    """The numbers of shapes that `num` stands for: one, or those of a range that can be divided among the levels.

    Args:
        num: A number, or a range as in `2..12`, both ends included.
        levels: Levels of the detector's head.

    Raises:
        UserError: It is neither, is not positive, or cannot be divided.
    """
    if levels < 1:
        raise UserError(f"{levels}; give 1 or more", "levels")
    ends = re.fullmatch(r"(\d{1,6})\.\.(\d{1,6})", num) if isinstance(num, str) else None
    if isinstance(num, str) and ends is None:
        raise UserError(f"{num}; give a number of shapes, or a range as in 2..12", "num")
    first, last = (int(ends[1]), int(ends[2])) if ends else [whole_number(num, "num")] * 2
    if not 1 <= first <= last:
        raise UserError(f"{num}; give 1 or more" + (", the smaller end first" if ends else ""), "num")
    numbers = [number for number in range(first, last + 1) if number % levels == 0]
    if not numbers:
        raise UserError(f"{num} shapes cannot be divided equally among {levels} levels; give 9 for 3, say", "num")
    if ends and not 3 <= len(numbers) <= MAX_NUMBERS:
        raise UserError(
            f"{num} holds {len(numbers)} numbers that divide among {levels} levels; an elbow needs 3, and at most "
            f"{MAX_NUMBERS} are fitted",
            "num",
        )
    return numbers


class Point(NamedTuple):
    """A number of shapes, with the shapes (A, 2) fitted, their score, and their objective."""

    wh: Tensor
    score: AnchorScore
    value: float


def fit_numbers(
    boxes: Tensor, numbers: Sequence[int], fitted: Callable[[int], Tensor], objective: Objective
) -> list[Point]:
    """A point for each of the numbers, of the shapes that `fitted` gives for it, on boxes (N, 2)."""
    sets = [fitted(number) for number in numbers]
    return [Point(wh, score_shapes(boxes, wh), best_fit(boxes, wh, objective)) for wh in sets]


def elbow(numbers: Sequence[int], values: Sequence[float]) -> int:
    """The place of the value that is highest above the straight line from the first to the last; of three or more."""
    slope = (values[-1] - values[0]) / (numbers[-1] - numbers[0])
    above = [value - values[0] - slope * (number - numbers[0]) for number, value in zip(numbers, values, strict=True)]
    return max(range(1, len(numbers) - 1), key=lambda place: above[place])


def numbers_table(points: Sequence[Point], chosen: int, objective: Objective) -> str:
    """A line a number: the measures, and what the objective gained; that of the place `chosen` is marked."""
    names = {"iou": "mean best IoU", "ratio": f"fitness at ratio {RATIO_THRESHOLD:g}"}
    rows = [["shapes", names[objective], "gain", "BPR at IoU 0.5", f"BPR at ratio {RATIO_THRESHOLD:g}", ""]]
    before = None
    for place, (wh, score, value) in enumerate(points):
        gain = "" if before is None else f"{value - before:+.4f}"
        recalls = [f"{score.recall_iou:.4f}", f"{score.recall_ratio:.4f}"]
        rows.append([str(len(wh)), f"{value:.4f}", gain, *recalls, "<- elbow" if place == chosen else ""])
        before = value
    return aligned(rows)


def draw_numbers(points: Sequence[Point], chosen: int, objective: Objective, path: Path) -> None:
    """Draws the objective over the number of shapes; a `UserError` if the file cannot be written."""
    from anchor_lightning.visualization.anchor_plots import numbers_figure, save_figure  # imports matplotlib

    label = {"iou": "mean best IoU", "ratio": "YOLOv5's fitness"}[objective]
    figure = numbers_figure([len(point.wh) for point in points], [point.value for point in points], chosen, label)
    with atomic_files(path) as (partial,):
        save_figure(figure, partial)
