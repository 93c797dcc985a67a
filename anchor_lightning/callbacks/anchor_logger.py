"""The record of what the shapes of a `DetectionTask` learn, with the boxes that they are to fit."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.anchors.iou import shape_iou
from anchor_lightning.callbacks.shape_recorder import MAX_BOXES, ShapeRecorder
from anchor_lightning.training.files import atomic_files
from anchor_lightning.training.run_folder import run_folder
from anchor_lightning.visualization.animation import save_animation


class AnchorLogger(Callback):
    """Log of the shapes: scalars, and in the run folder where they went.

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
        UserError: A number of steps is not positive.
    """

    def __init__(self, every_n_steps: int = 50, figure_every_n_steps: int = 1000, animation: bool = True) -> None:
        self.animation = animation
        self._recorder = ShapeRecorder(every_n_steps, figure_every_n_steps)
        # The boxes of the training split, without and with augmentation.
        self._boxes, self._augmented = torch.empty(0, 2), torch.empty(0, 2)
        self._mean_best_iou = float("nan")

    def state_dict(self) -> dict[str, Any]:
        """The history in plain types, see `ShapeRecorder`."""
        return self._recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the history of the run that is resumed."""
        self._recorder.load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the boxes to compare with, and draws the first figure: a run that is cut short has one, too."""
        if not trainer.is_global_zero:
            return
        task: Any = pl_module
        self._boxes = sample(task.data.train_box_shapes())
        self._augmented = sample(task.data.train_box_shapes(augmented=True))
        self._recorder.start(trainer, task.shapes, lambda: self._boxes, lambda wh: self._metrics(task, wh))
        self._recorder.draw()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Writes a row, and a figure, when the step is due: the shapes, T and λ that this step begins with."""
        if trainer.is_global_zero:
            self._recorder.step()
        pl_module.log("anchors/mean_best_iou", self._mean_best_iou, prog_bar=True, logger=False, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the last row, the figures, the animation and the table, and says where they are."""
        if not trainer.is_global_zero:
            return
        self._recorder.finish()
        task: Any = pl_module
        wh = task.shapes.wh.cpu()
        modes = getattr(trainer.datamodule, "mode_shapes", lambda: None)()  # type: ignore[attr-defined]  # set at run time
        columns, rows = learned_table(task.shapes.initial_wh.cpu(), wh, usage(self._boxes, wh), modes)
        rank_zero_info(format_table(columns, rows))
        rank_zero_info(f"The run is in {(folder := run_folder(trainer))}.")
        animation = None
        if self.animation and folder is not None:
            animation = folder / "anchors.gif"
            with atomic_files(animation) as (path,):
                save_animation(path, *self._recorder.arrays(), self._boxes.numpy())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table("anchors/table", columns=columns, data=rows, step=trainer.global_step)
                if animation is not None:
                    logger.log_video("anchors/animation", [str(animation)], step=trainer.global_step)

    def _metrics(self, task: Any, wh: Tensor) -> dict[str, float]:
        self._mean_best_iou = mean_best_iou(self._boxes, wh)
        return {
            "anchors/temperature": task.temperature,
            "anchors/lambda": task.clustering_weight,
            "anchors/mean_best_iou": self._mean_best_iou,
            "anchors/mean_best_iou_augmented": mean_best_iou(self._augmented, wh),
        } | {f"anchors/usage_{anchor}": share for anchor, share in enumerate(usage(self._boxes, wh).tolist())}


def sample(boxes: Tensor) -> Tensor:
    """At most 50,000 of the (N, 2) boxes, always the same."""
    if len(boxes) <= MAX_BOXES:
        return boxes
    return boxes[torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))[:MAX_BOXES]]


def usage(boxes: Tensor, wh: Tensor) -> Tensor:
    """(A,) share of the (N, 2) boxes whose best shape by IoU each of the (A, 2) shapes is."""
    best = shape_iou(boxes[:, None], wh[None]).argmax(1)
    return best.bincount(minlength=len(wh)) / max(1, len(best))


def learned_table(
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
