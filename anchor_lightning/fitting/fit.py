"""The methods that fit anchor shapes to boxes, by name."""

from __future__ import annotations

from typing import Final, Literal

from torch import Tensor

from anchor_lightning.errors import UserError, check_choice
from anchor_lightning.fitting.ascent import ascent_shapes
from anchor_lightning.fitting.kmeans import kmeans_shapes
from anchor_lightning.fitting.objectives import Objective
from anchor_lightning.fitting.simulate import learn_shapes

FitMethod = Literal["ascent", "kmeans", "learned"]
LEARN_STEPS: Final = 4500  # The paper's warm-up of 1,500 steps, and 3,000 more in which the shapes settle


def fit_shapes(
    box_wh: Tensor,
    num: int,
    method: FitMethod = "ascent",
    image_size: tuple[int, int] | None = None,
    boxes_per_image: float | None = None,
    seed: int = 0,
    objective: Objective = "iou",
) -> Tensor:
    """(A, 2) float32 anchor shapes that fit boxes, in their pixels, smallest area first.

    Args:
        box_wh: (N, 2) boxes in pixels of the network input.
        num: Number of shapes A.
        method: `ascent` on the objective; IoU `kmeans` as in YOLOv2; `learned` by the paper's schedule and loss.
        image_size: Height and width of the network input, for `learned`.
        boxes_per_image: Mean number of boxes of an image, for `learned`.
        seed: Of the starts.
        objective: What `ascent` climbs; the other methods know the mean best IoU only.

    Raises:
        UserError: `num` is less than 1, or there are fewer distinct boxes than `num`; `learned` lacks an argument;
            there is no such method, or it has no such objective.
    """
    check_choice(method, FitMethod, "method")
    check_choice(objective, Objective, "objective")
    if method == "ascent":
        return ascent_shapes(box_wh, num, seed, objective)
    if objective != "iou":
        raise UserError(f"{objective} is climbed by the method ascent only, not by {method}", argument="objective")
    wh = kmeans_shapes(box_wh, num, seed)
    if method == "learned":
        if image_size is None or boxes_per_image is None:
            raise UserError("learned needs image_size and boxes_per_image, too", argument="method")
        wh = learn_shapes(box_wh, wh, LEARN_STEPS, image_size, boxes_per_image, seed=seed)[-1]
    return wh[wh.prod(1).argsort(stable=True)]
