"""The record of what the shapes of a `DetectionTask` learn, with the boxes that they are to fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from anchor_lightning.anchors import best_iou, mean_best_iou
from anchor_lightning.callbacks.shape_recorder import MAX_BOXES, ShapeRecorder
from anchor_lightning.fitting.score import judge, score_shapes
from anchor_lightning.training.files import atomic_files, run_folder
from anchor_lightning.visualization.animation import save_animation

MIN_SIDE: Final = 1.0  # pixels; the sides of real boxes are larger


class AnchorLogger(ShapeRecorder):
    """Log of the shapes: scalars, and `anchors.csv`, `.json`, `.png` and `.gif`, and `trajectory.png`.

    Usage is the share of the training boxes whose best shape by IoU an anchor is. Mean best IoU is that of these boxes
    and, as `anchors/mean_best_iou_augmented`, of the boxes as training crops and expands them.

    Args:
        every_n_steps: Optimizer steps between rows of `anchors.csv` and of the loggers.
        figure_every_n_steps: Optimizer steps between figures; one is always drawn at the end.
        animation: Whether `anchors.gif` of shapes that learn is written, which takes some seconds.

    Raises:
        UserError: A number of steps is not positive.
    """

    def __init__(self, every_n_steps: int = 50, figure_every_n_steps: int = 1000, animation: bool = True) -> None:
        super().__init__(every_n_steps, figure_every_n_steps)
        self.animation = animation
        self._boxes, self._augmented = torch.empty(0, 2), torch.empty(0, 2)  # of the training split
        self._mean_best_iou = float("nan")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the boxes to compare with, and draws the first figure: a run that is cut short has one, too."""
        if not trainer.is_global_zero:
            return
        task: Any = pl_module
        self._boxes = sample(task.data.train_box_shapes())
        self._augmented = sample(task.data.train_box_shapes(augmented=True))
        frame = task.anchor_frame
        known = {"image_size": tuple(frame["image_size"]), "resize": frame["resize"]}
        self.record(trainer, task.shapes, lambda: self._boxes, lambda wh: self._metrics(task, wh), known)
        self.draw(trainer)
        if trainer.global_step == 0 and len(self._boxes):
            rank_zero_info(start_verdict(self._boxes, task.shapes.wh.detach().cpu(), task.shapes.log_wh.requires_grad))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Writes what is due: the shapes, T and λ that this step begins with."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        pl_module.log("anchors/mean_best_iou", self._mean_best_iou, prog_bar=True, logger=False, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the last row, the figures, the animation and the table, and says where they are."""
        super().on_train_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        task: Any = pl_module
        wh = task.shapes.wh.cpu()
        modes = getattr(trainer.datamodule, "mode_shapes", lambda: None)()  # type: ignore[attr-defined]  # set at run time
        initial, levels = task.shapes.initial_wh.cpu(), task.shapes.num_per_level
        columns, rows = learned_table(initial, wh, usage(self._boxes, wh), levels, modes)
        if not task.shapes.log_wh.requires_grad:
            columns = [column.replace("learned", "fixed") for column in columns]
        rank_zero_info(format_table(columns, rows))
        if len(self._boxes) and task.shapes.log_wh.requires_grad:
            rank_zero_info(end_verdict(self._boxes, initial, wh))
            if warning := vanished_text(wh):
                rank_zero_warn(warning)
        if (folder := run_folder(trainer)) is not None:
            pictures = [name for name in ("anchors.png", "predictions.png") if (folder / name).exists()]
            rank_zero_info(f"The run is in {folder}. Look at {' and '.join(pictures)} there.")
        animates = self.animation and task.shapes.log_wh.requires_grad
        animation = folder / "anchors.gif" if animates and folder is not None else None
        if animation is not None:
            with atomic_files(animation) as (path,):
                save_animation(path, *self.arrays(), self._boxes.numpy(), task.shapes.num_per_level)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table("anchors/table", columns=columns, data=rows, step=trainer.global_step)
                logger.log_metrics({"anchors/chart": shapes_chart(*self.arrays())}, step=trainer.global_step)
                if folder is not None:  # all digits, levels and the input that the shapes are for
                    logger.experiment.save(str(folder / "anchors.json"), base_path=str(folder), policy="now")
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


def shapes_chart(steps: np.ndarray, wh: np.ndarray) -> Any:
    """W&B's chart of (S, A, 2) widths and heights in pixels over (S,) steps, all in one, a line each."""
    import wandb  # a second, which no other command has to wait for

    keys = [f"{anchor} {side}" for anchor in range(wh.shape[1]) for side in "wh"]
    lines = wh.reshape(len(steps), -1).T.tolist()
    return wandb.plot.line_series(steps.tolist(), lines, keys=keys, title="Anchor shapes, pixels", xname="step")


def sample(boxes: Tensor) -> Tensor:
    """At most 50,000 of the (N, 2) boxes, always the same."""
    if len(boxes) <= MAX_BOXES:
        return boxes
    return boxes[torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))[:MAX_BOXES]]


def end_verdict(boxes: Tensor, initial: Tensor, learned: Tensor) -> str:
    """How well the (A, 2) learned shapes fit the (N, 2) boxes, and how well the initial ones did."""
    before, after = score_shapes(boxes, initial), score_shapes(boxes, learned)
    return (
        f"Shapes at the end (at the start): BPR {after.recall_ratio:.3f} ({before.recall_ratio:.3f}) at ratio 4, "
        f"{after.recall_iou:.3f} ({before.recall_iou:.3f}) at IoU 0.5, mean best IoU {after.mean_best_iou:.3f} "
        f"({before.mean_best_iou:.3f})."
    )


def vanished_text(wh: Tensor) -> str:
    """What to do about those of the (A, 2) shapes that are now smaller than any box; empty if there are none."""
    vanished = (wh < MIN_SIDE).any(1).nonzero().flatten().tolist()
    if not vanished:
        return ""
    return (
        f"Anchors with a side below {MIN_SIDE:g} pixel, which fit no box: {', '.join(map(str, vanished))}. The "
        "training was unstable: lower the learning rate or lr_mult of the anchors, or start them from kmeans (init)."
    )


def start_verdict(boxes: Tensor, wh: Tensor, learned: bool) -> str:
    """How well the (A, 2) shapes that a training starts with fit the (N, 2) boxes, and what to do."""
    score, verdict = score_shapes(boxes, wh), judge(boxes, wh)
    text = (
        f"Shapes at the start: BPR {score.recall_ratio:.3f} at ratio 4, {score.recall_iou:.3f} at IoU 0.5, mean best "
        f"IoU {score.mean_best_iou:.3f}: "
    )
    if verdict.is_good:
        return f"{text}a good fit."
    reachable = "" if math.isnan(verdict.reachable) else f" (as many fitted ones reach {verdict.reachable:.3f})"
    advice = "they are learned from here on" if learned else "fit them: model.anchors.init kmeans, or anchors fit"
    return f"{text}a poor fit{reachable}; {advice}."


def usage(boxes: Tensor, wh: Tensor) -> Tensor:
    """(A,) share of the (N, 2) boxes whose best shape by IoU each of the (A, 2) shapes is."""
    return best_iou(boxes, wh)[1].bincount(minlength=len(wh)) / max(1, len(boxes))


def learned_table(
    initial: Tensor, learned: Tensor, usage: Tensor, num_per_level: Sequence[int], modes: Tensor | None = None
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of (A, 2) initial and learned shapes, their (A,) usage, and the nearest of (K, 2) true modes.

    Where there are several levels, that of each shape, from 0, is a column, too.
    """
    columns = ["anchor", "initial w", "initial h", "learned w", "learned h", "usage"]
    parts = [initial, learned, usage[:, None]]
    if modes is not None:
        columns += ["nearest mode w", "nearest mode h", "IoU with it"]
        iou, nearest = best_iou(learned, modes)
        parts += [modes[nearest], iou[:, None]]
    shares = ("usage", "IoU with it")
    rows = [
        [anchor, *(round(value, 3 if name in shares else 1) for name, value in zip(columns[1:], row, strict=True))]
        for anchor, row in enumerate(torch.cat(parts, 1).tolist())
    ]
    if len(num_per_level) > 1:
        columns.insert(1, "level")
        levels = [level for level, num in enumerate(num_per_level) for _ in range(num)]
        rows = [[anchor, level, *row] for level, (anchor, *row) in zip(levels, rows, strict=True)]
    return columns, rows


def format_table(columns: list[str], rows: list[list[Any]]) -> str:
    """The table as aligned text; shapes are in pixels of the network input, the usage in percent."""
    share = columns.index("usage")
    cells = [columns, *([f"{cell:.1%}" if at == share else str(cell) for at, cell in enumerate(row)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(["Anchors in pixels of the network input:", *lines])
