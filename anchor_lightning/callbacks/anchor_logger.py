"""Records where the shapes go: scalars to every logger; a CSV, figures and an animation in the run folder; a table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor

from anchor_lightning.anchors import AnchorShapes, mean_best_iou
from anchor_lightning.anchors.iou import shape_iou
from anchor_lightning.visualization.anchor_plots import anchor_figure, save_figure, trajectory_figure
from anchor_lightning.visualization.animation import save_animation

MAX_BOXES: Final = 50_000
"""Boxes that usage and mean best IoU are measured on; a larger set is sampled (seeded)."""
KEYS: Final = {"anchors": "anchors/figure", "trajectory": "anchors/trajectory"}
"""File stem -> name in the loggers."""
MAX_HISTORY: Final = 2000
"""Steps that the history keeps; a longer one is thinned."""


class AnchorLogger(Callback):
    """Logs the shapes as scalars and leaves in the run folder where they went.

    `anchors.csv` holds the shapes step by step, `anchors.png` the log w - log h figure over the box density,
    `trajectory.png` width and height over the steps, and `anchors.gif` (written when training ends) the shapes moving
    over the density. The figures also go to Weights & Biases and TensorBoard, the animation to the former. Checkpoints
    carry the history, so all of them begin at step 0 in a resumed run, too, which has a folder of its own.

    Usage is the share of the training boxes whose best shape by IoU an anchor is, without augmentation. Mean best IoU
    is logged for these (`anchors/mean_best_iou`) and for the boxes as training shows them, cropped and expanded
    (`anchors/mean_best_iou_augmented`): the shapes adapt to the latter, so on a data set whose boxes are all alike the
    former may fall while the latter holds.

    Args:
        every_n_steps: Optimizer steps between rows of `anchors.csv` and of the loggers.
        figure_every_n_steps: Optimizer steps between figures; one is always drawn at the end.
        animation: Whether `anchors.gif` is written, which takes some seconds.

    Raises:
        ValueError: A number of steps is not positive.
    """

    def __init__(self, every_n_steps: int = 50, figure_every_n_steps: int = 1000, animation: bool = True) -> None:
        if every_n_steps < 1 or figure_every_n_steps < 1:
            raise ValueError(
                f"anchor_logger: every_n_steps ({every_n_steps}) and figure_every_n_steps ({figure_every_n_steps}) "
                "must be 1 or more"
            )
        self.every_n_steps, self.figure_every_n_steps = every_n_steps, figure_every_n_steps
        self.animation = animation
        self._history: dict[int, list[list[float]]] = {}  # step -> (A, 2) pixels
        self._boxes = torch.empty(0, 2)
        self._augmented = torch.empty(0, 2)
        self._last_step = -1
        self._mean_best_iou = float("nan")

    def state_dict(self) -> dict[str, Any]:
        """The history in plain types: `steps` (S,) and `wh` (S, A, 2) in pixels."""
        return {"steps": list(self._history), "wh": list(self._history.values())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the history of the run that is resumed."""
        self._history = dict(zip(state_dict["steps"], state_dict["wh"], strict=True))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the boxes to compare with, and draws the first figure: a run that is cut short has one, too."""
        if not trainer.is_global_zero:
            return
        # This step's row is about to be written, and nothing is left of another run of the same process.
        self._history = {step: wh for step, wh in self._history.items() if step < trainer.global_step}
        if (folder := run_folder(trainer)) is not None and not (folder / "anchors.csv").exists():
            for step, wh in self._history.items():
                append_rows(folder / "anchors.csv", step, torch.tensor(wh))
        task: Any = pl_module
        self._boxes = sample(task.data.train_box_shapes())
        self._augmented = sample(task.data.train_box_shapes(augmented=True))
        self._last_step = -1
        self._draw(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Writes a row, and a figure, when the step is due: the shapes, T and λ that this step begins with."""
        step = trainer.global_step
        if trainer.is_global_zero and step != self._last_step:  # equal while batches accumulate
            if step % self.every_n_steps == 0 or self._last_step < 0:
                self._log(trainer, pl_module)
            if step and step % self.figure_every_n_steps == 0:
                self._draw(trainer, pl_module)
            self._last_step = step
        pl_module.log("anchors/mean_best_iou", self._mean_best_iou, prog_bar=True, logger=False, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the last row, the figures, the animation and the table, and says where they are."""
        if not trainer.is_global_zero:
            return
        self._log(trainer, pl_module)
        self._draw(trainer, pl_module)
        wh, initial = shapes_of(pl_module).wh.cpu(), shapes_of(pl_module).initial_wh.cpu()
        modes = getattr(trainer.datamodule, "mode_shapes", lambda: None)()  # type: ignore[attr-defined]  # set at run time
        columns, rows = shape_table(initial, wh, self._best(wh)[1], modes)
        rank_zero_info(format_table(columns, rows))
        rank_zero_info(f"The run is in {(folder := run_folder(trainer))}.")
        animation = None
        if self.animation and folder is not None:
            steps, way = self._way()
            animation = save_animation(folder / "anchors.gif", steps, way, self._boxes.numpy())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table("anchors/table", columns=columns, data=rows, step=trainer.global_step)
                if animation is not None:
                    logger.log_video("anchors/animation", [str(animation)], step=trainer.global_step)

    def _way(self) -> tuple[np.ndarray, np.ndarray]:
        """(S,) steps and (S, A, 2) shapes in pixels, so far."""
        return np.array(list(self._history)), np.array(list(self._history.values()))

    def _best(self, wh: Tensor) -> tuple[float, Tensor]:
        """Mean best IoU, and the share of the boxes that each shape serves best."""
        iou, best = shape_iou(self._boxes[:, None], wh[None]).max(1)
        return float(iou.mean()), best.bincount(minlength=len(wh)) / max(1, len(best))

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        task: Any = pl_module
        wh = shapes_of(pl_module).wh.cpu()
        self._mean_best_iou, usage = self._best(wh)
        metrics = {
            "anchors/temperature": task.temperature,
            "anchors/lambda": task.clustering_weight,
            "anchors/mean_best_iou": self._mean_best_iou,
            "anchors/mean_best_iou_augmented": mean_best_iou(self._augmented, wh),
        }
        for anchor, ((w, h), share) in enumerate(zip(wh.tolist(), usage.tolist(), strict=True)):
            metrics |= {f"anchors/{anchor}/w": w, f"anchors/{anchor}/h": h, f"anchors/usage_{anchor}": share}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        if (folder := run_folder(trainer)) is not None:
            append_rows(folder / "anchors.csv", step, wh)
        self._history = thin(self._history | {step: wh.tolist()}, MAX_HISTORY)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shapes = shapes_of(pl_module)
        figures = {}
        figures["anchors"] = anchor_figure(
            self._boxes.numpy(),
            {"initial": shapes.initial_wh.cpu().numpy(), "learned": shapes.wh.cpu().numpy()},
            title=f"Anchors after {trainer.global_step} steps",
        )
        if self._history:
            figures["trajectory"] = trajectory_figure(
                *self._way(), self._boxes.numpy(), title="Anchors over the steps of training"
            )
        for name, figure in figures.items():
            if (folder := run_folder(trainer)) is not None:
                save_figure(figure, folder / f"{name}.png")
            for logger in trainer.loggers:
                log_figure(logger, KEYS[name], figure, trainer.global_step)


def thin(history: dict[int, list[list[float]]], limit: int) -> dict[int, list[list[float]]]:
    """The history if it has at most `limit` steps, else at most half as many, evenly spread, and its last step."""
    if len(history) <= limit:
        return history
    # Multiples of a power of two: thinning again keeps an even spread, where dropping every second row would leave the
    # least of the beginning, where most happens.
    stride = 1
    while sum(step % stride == 0 for step in history) > limit // 2:
        stride *= 2
    last = next(reversed(history))
    return {step: wh for step, wh in history.items() if step % stride == 0 or step == last}


def sample(boxes: Tensor) -> Tensor:
    """At most 50,000 of the (N, 2) boxes, always the same."""
    if len(boxes) <= MAX_BOXES:
        return boxes
    return boxes[torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))[:MAX_BOXES]]


def shapes_of(module: LightningModule) -> AnchorShapes:
    """The owner of the shapes within a task."""
    shapes = module.shapes
    assert isinstance(shapes, AnchorShapes)
    return shapes


def run_folder(trainer: Trainer) -> Path | None:
    """The folder of the run on rank 0, made if need be; None when the trainer keeps none (`fast_dev_run`)."""
    # `trainer.log_dir` is a collective call; the first logger's folder is the same and can be read on one rank.
    folder = getattr(trainer.loggers[0], "log_dir", None) if trainer.loggers else trainer.default_root_dir
    if trainer.fast_dev_run or not isinstance(folder, str):  # type: ignore[attr-defined]  # set at run time
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def append_rows(path: Path, step: int, wh: Tensor) -> None:
    """Appends the (A, 2) shapes at a step to `anchors.csv`: step, anchor, w, h (pixels of the network input)."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["step", "anchor", "w", "h"])
        writer.writerows([step, anchor, f"{w:.4f}", f"{h:.4f}"] for anchor, (w, h) in enumerate(wh.tolist()))


def log_figure(logger: Logger, key: str, figure: Figure, step: int) -> None:
    """Hands a figure to the loggers that take figures: Weights & Biases and TensorBoard."""
    if isinstance(logger, WandbLogger):
        logger.log_image(key, [figure], step=step)  # Lightning makes it `trainer/global_step`, not W&B's own step
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(key, figure, global_step=step)


def shape_table(
    initial: Tensor, learned: Tensor, usage: Tensor, modes: Tensor | None = None
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of initial and learned shapes, with the nearest true mode where the modes are known.

    Args:
        initial: (A, 2) pixels.
        learned: (A, 2) pixels.
        usage: (A,) share of the boxes.
        modes: (K, 2) pixels, or None.
    """
    columns = ["anchor", "initial w", "initial h", "learned w", "learned h", "usage"]
    rows: list[list[Any]] = [
        [anchor, *(round(side, 1) for side in start + end), round(share, 3)]
        for anchor, (start, end, share) in enumerate(
            zip(initial.tolist(), learned.tolist(), usage.tolist(), strict=True)
        )
    ]
    if modes is not None:
        columns += ["nearest mode w", "nearest mode h", "IoU with it"]
        iou, nearest = shape_iou(learned[:, None], modes.to(learned)[None]).max(1)
        for row, value, mode in zip(rows, iou.tolist(), modes[nearest].tolist(), strict=True):
            row += [*(round(side, 1) for side in mode), round(value, 3)]
    return columns, rows


def format_table(columns: list[str], rows: list[list[Any]]) -> str:
    """The table as aligned text; shapes are in pixels of the network input."""
    cells = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(["Anchors in pixels of the network input:", *lines])
