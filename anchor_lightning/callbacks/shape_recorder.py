"""The record of the shapes over a training; A shapes, S recorded steps, N boxes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from anchor_lightning.anchors import AnchorShapes
from anchor_lightning.callbacks.lightning_classes import is_lightning
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import AnchorSet, anchors_text
from anchor_lightning.training.files import atomic_files, run_folder
from anchor_lightning.visualization.anchor_plots import anchor_figure, save_figure
from anchor_lightning.visualization.trajectories import trajectory_figure

MAX_BOXES: Final = 50_000  # boxes that shapes are drawn over and compared with; a larger set is reduced
MAX_HISTORY: Final = 2000  # steps that the history keeps; a longer one is thinned
HEADER: Final = ["step", "anchor", "w", "h"]
History = dict[int, list[list[float]]]  # step -> (A, 2) shapes in pixels, as lists


class ShapeRecorder(Callback):
    """Base of the callbacks that record shapes: `anchors.csv`, `.json`, `.png`, `trajectory.png`, and the loggers.

    Args:
        every_n_steps: Optimizer steps between rows of `anchors.csv` and of the loggers.
        figure_every_n_steps: Optimizer steps between figures; one is always drawn at the end.

    Attributes:
        history: The shapes so far; checkpoints carry it, so that the files of a resumed run begin at step 0, too.

    Raises:
        UserError: A number of steps is not positive.
    """

    def __init__(self, every_n_steps: int, figure_every_n_steps: int = 1000) -> None:
        for argument, value in (("every_n_steps", every_n_steps), ("figure_every_n_steps", figure_every_n_steps)):
            if value < 1:
                raise UserError(f"must be 1 or more, got {value}", argument)
        self.every_n_steps, self.figure_every_n_steps = every_n_steps, figure_every_n_steps
        self.history: History = {}
        self._last_step = -1

    def state_dict(self) -> dict[str, Any]:
        """The history in plain types: `steps` (S,) and `wh` (S, A, 2) in pixels."""
        return {"steps": list(self.history), "wh": list(self.history.values())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the history of the run that is resumed."""
        self.history = dict(zip(state_dict["steps"], state_dict["wh"], strict=True))

    def record(
        self,
        trainer: Trainer,
        shapes: AnchorShapes,
        boxes: Callable[[], Tensor],
        metrics: Callable[[Tensor], dict[str, float]],
        frame: Mapping[str, Any] | None = None,
    ) -> None:
        """Begins `anchors.csv` with the history of a run that is resumed; for rank 0 alone.

        Args:
            trainer: Of the run.
            shapes: The shapes to record.
            boxes: Gives the (N, 2) boxes, in pixels of the network input, to draw the shapes over.
            metrics: Gives further scalars of a step, from its (A, 2) shapes in pixels.
            frame: `image_size` and `resize` of the shapes, as of `AnchorSet`, where they are known.

        Raises:
            UserError: The folder has an `anchors.csv` that is not a record.
        """
        self._recorded, self._boxes_of, self._metrics_of = shapes, boxes, metrics
        self._frame = dict(frame or {})
        # The row of this step is about to be written, and nothing is left of another run of the same process.
        self.history = {step: wh for step, wh in self.history.items() if step < trainer.global_step}
        self._last_step = -1
        if (folder := run_folder(trainer)) is None:
            return
        path = folder / "anchors.csv"
        if path.exists():  # of another run, where runs share a folder
            with path.open(errors="replace") as file:
                if file.readline().strip() != ",".join(HEADER):
                    raise UserError(f"{path} is no record of anchors and would be overwritten; move it away")
            path.unlink()
        for step, wh in self.history.items():
            append_rows(path, step, torch.tensor(wh))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Writes a row, and a figure, when the step is due."""
        step = trainer.global_step
        if not trainer.is_global_zero or step == self._last_step:  # while batches accumulate
            return
        if step % self.every_n_steps == 0 or self._last_step < 0:
            self._log(trainer)
        if step and step % self.figure_every_n_steps == 0:
            self.draw(trainer)
        self._last_step = step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the last row and the figures."""
        if trainer.is_global_zero:
            self._log(trainer)
            self.draw(trainer)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(S,) steps and (S, A, 2) shapes in pixels, so far."""
        return np.array(list(self.history)), np.array(list(self.history.values()))

    def draw(self, trainer: Trainer) -> None:
        """Draws both figures into the run folder and the loggers that take figures, and writes `anchors.json`."""
        step, boxes, folder = trainer.global_step, self._boxes_of().numpy(), run_folder(trainer)
        levels = self._recorded.num_per_level
        wh = {"fixed": self._recorded.wh.cpu().numpy()}
        if self._recorded.log_wh.requires_grad:
            wh = {"initial": self._recorded.initial_wh.cpu().numpy(), "learned": self._recorded.wh.cpu().numpy()}
        figure = anchor_figure(boxes, wh, title=f"Anchors after {step} steps", num_per_level=levels)
        figures = [("anchors", "anchors/figure", figure)]
        if self.history:
            title = "Anchors over the steps of training"
            trajectory = trajectory_figure(*self.arrays(), boxes, title=title, num_per_level=levels)
            figures.append(("trajectory", "anchors/trajectory", trajectory))
        if folder is not None:
            source = f"{folder}, step {step}"
            anchors = AnchorSet(self._recorded.wh.cpu(), tuple(levels), source, **self._frame)
            with atomic_files(folder / "anchors.json") as (path,):
                path.write_text(anchors_text(anchors, "json"), encoding="utf-8")
        for name, key, figure in figures:
            if folder is not None:
                with atomic_files(folder / f"{name}.png") as (path,):
                    save_figure(figure, path)
            loggers: list[Any] = trainer.loggers
            for logger in loggers:
                if is_lightning(logger, "WandbLogger"):
                    logger.log_image(key, [figure], step=step)  # Lightning makes it `trainer/global_step`
                elif is_lightning(logger, "TensorBoardLogger"):
                    logger.experiment.add_figure(key, figure, global_step=step)

    def _log(self, trainer: Trainer) -> None:
        step, wh = trainer.global_step, self._recorded.wh.cpu()
        if step in self.history:  # the training ended within this step
            return
        metrics = self._metrics_of(wh)
        for anchor, (w, h) in enumerate(wh.tolist()):
            metrics |= {f"anchors/{anchor}/w": w, f"anchors/{anchor}/h": h}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        if (folder := run_folder(trainer)) is not None:
            append_rows(folder / "anchors.csv", step, wh)
        self.history = thin(self.history | {step: wh.tolist()}, MAX_HISTORY)


def thin(history: History, limit: int) -> History:
    """The history if it has at most `limit` steps, else at most half as many, evenly spread, and its last step."""
    if len(history) <= limit:
        return history
    # Multiples of a power of two keep an even spread when thinned again; every second row would not.
    stride = 1
    while sum(step % stride == 0 for step in history) > limit // 2:
        stride *= 2
    last = next(reversed(history))
    return {step: wh for step, wh in history.items() if step % stride == 0 or step == last}


def append_rows(path: Path, step: int, wh: Tensor) -> None:
    """Appends the (A, 2) shapes at a step to `anchors.csv`: step, anchor, w, h (pixels of the network input)."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(HEADER)
        writer.writerows([step, anchor, f"{w:.4f}", f"{h:.4f}"] for anchor, (w, h) in enumerate(wh.tolist()))
