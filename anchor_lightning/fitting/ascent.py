"""Gradient ascent on the mean best IoU itself, or on YOLOv5's fitness, in about a second.

Shape letters: N boxes or cells of the log plane, A anchor shapes, R starts that climb side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam

from anchor_lightning.anchors.iou import CHUNK
from anchor_lightning.fitting.kmeans import check_distinct, kmeans_shapes
from anchor_lightning.fitting.objectives import Objective, best_fit, fit_of, worth

COARSE, FINE = 0.1, 0.05  # Sides of the cells in nats: boxes of one cell differ by up to 10 % and 5 %
NUM_STARTS, NUM_KEPT = 24, 3
COARSE_STEPS, FINE_STEPS, LAST_STEPS = 40, 100, 20
COARSE_RATE, FINE_RATE, LAST_RATE = 0.1, 0.05, 0.01  # Adam's rates: about the change of a logarithm in the first step
ADAM: Final[dict[str, Any]] = {
    **{"beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
}
KMEANS_SAMPLE: Final = 4096


class Cells(NamedTuple):
    """Boxes (N, 2) that count with weights (N,), which sum to 1."""

    wh: Tensor
    weight: Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from more threads, which wait for each other for seconds on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def ascent_shapes(box_wh: Tensor, num: int, seed: int = 0, objective: Objective = "iou") -> Tensor:
    """(A, 2) float32 shapes of the highest objective that gradient ascent finds, smallest area first.

    One start is the IoU k-means of up to 4,096 boxes, than which the result is never worse.

    Args:
        box_wh: (N, 2) widths and heights > 0, in any unit.
        num: Number of shapes A.
        seed: Of the starts; equal arguments give equal shapes.
        objective: What is climbed, see `Objective`.

    Raises:
        UserError: As `check_distinct`.
    """
    check_distinct(box_wh, num)
    boxes = box_wh.float()
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = gather(boxes, COARSE), gather(boxes, FINE)
    # Cells of boxes that are nearly alike would hold fewer distinct shapes than are asked for.
    if len(fine.wh) < 8 * num:
        wh, count = boxes.unique(dim=0, return_counts=True)
        coarse = fine = Cells(wh, count / len(boxes))
    elif len(coarse.wh) < 8 * num:
        coarse = fine
    sample = boxes
    if len(boxes) > KMEANS_SAMPLE:
        sample = boxes[torch.randperm(len(boxes), generator=generator)[:KMEANS_SAMPLE]]
    given = [kmeans_shapes(sample, num, seed)] if len(sample.unique(dim=0)) >= num else []
    starts = torch.cat([_draw_starts(coarse, num, generator, objective), *(wh[None] for wh in given)]).log()
    climbed, score = climb(coarse, starts, COARSE_STEPS, COARSE_RATE, objective=objective)
    best = climbed[score.topk(min(NUM_KEPT, len(score))).indices]
    climbed, score = climb(fine, best, FINE_STEPS, FINE_RATE, objective=objective)
    found = climbed[score.argmax()]
    last = boxes[torch.randperm(len(boxes), generator=generator)[:CHUNK]]
    cells = Cells(last, torch.full((len(last),), 1 / len(last)))
    polished, _ = climb(cells, found[None], LAST_STEPS, LAST_RATE, objective=objective)
    wh = max([found.exp(), polished[0].exp(), *given], key=lambda shapes: best_fit(boxes, shapes, objective))
    return wh[wh.prod(1).argsort()]


def gather(box_wh: Tensor, side: float) -> Cells:
    """The geometric mean and the share of the boxes in every cell (`side` in nats) of the log plane that holds any."""
    log_wh = box_wh.double().log()
    cell = (log_wh / side).round().long()
    cell = cell - cell.amin(0)
    _, member_of, count = (cell[:, 0] * (cell[:, 1].amax() + 1) + cell[:, 1]).unique(
        return_inverse=True, return_counts=True
    )
    total = torch.zeros(len(count), 2, dtype=torch.float64).index_add_(0, member_of, log_wh)
    return Cells((total / count[:, None]).exp().float(), (count / len(box_wh)).float())


def _draw_starts(cells: Cells, num: int, generator: torch.Generator, objective: Objective) -> Tensor:
    """(R, A, 2) shapes: each further one a cell drawn with probability proportional to weight x (1 - best fit)²."""
    first = torch.multinomial(cells.weight, NUM_STARTS, replacement=True, generator=generator)
    starts = cells.wh[first][:, None]
    for _ in range(num - 1):
        far = (1 - fit_of(cells.wh, starts[:, :, None], objective).amax(1)).clamp_min(
            1e-6
        )  # all zero is an error of multinomial
        drawn = torch.multinomial(far.square() * cells.weight, 1, generator=generator)
        starts = torch.cat([starts, cells.wh[drawn]], dim=1)
    return starts


def climb(
    cells: Cells,
    start: Tensor,
    steps: int,
    rate: float,
    log_wh_of: Callable[[Tensor], Tensor] = lambda log_wh: log_wh,
    objective: Objective = "iou",
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Adam, its rate falling linearly, on the free numbers that shapes are made of.

    Args:
        cells: The boxes.
        start: (R, ...) free numbers of each start.
        steps: Number of steps.
        rate: Adam's rate at first.
        log_wh_of: Gives the (R, A, 2) logarithms of the shapes; the free numbers are these unless it is given.
        objective: What is climbed.
        allowed: (A, N) bool, which shapes may serve which cells; all if not given.

    Returns:
        (R, ...) the last numbers, and (R,) the objective on the cells.
    """

    def fits(wh: Tensor) -> Tensor:
        """(R, A, N)."""
        fit = fit_of(cells.wh, wh[:, :, None], objective)
        return fit if allowed is None else fit * allowed

    free = start.clone().requires_grad_()
    # Adam's state. The class `torch.optim.Adam` would import torch's compiler, which takes longer than the climb.
    means, squares, count = torch.zeros_like(start), torch.zeros_like(start), torch.zeros(())
    for step in range(steps):
        wh = log_wh_of(free).exp()
        with torch.no_grad():
            best = fits(wh).argmax(1)  # (R, N)
        # The gradient needs the best shape of each box only, so the others' fit is never differentiated.
        chosen = wh.gather(1, best[..., None].expand(-1, -1, 2))  # (R, N, 2)
        loss = -(fit_of(chosen, cells.wh, objective) @ cells.weight).sum()
        (gradient,) = torch.autograd.grad(loss, free)
        lr = rate * (1 - step / steps)
        with torch.no_grad():
            adam([free], [gradient], [means], [squares], [], [count], lr=lr, **ADAM)
    with torch.no_grad():
        fit = fits(log_wh_of(free).exp()).amax(1)
        return free.detach(), worth(fit, objective) @ cells.weight
