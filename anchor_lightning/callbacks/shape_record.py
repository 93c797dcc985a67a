"""Where the shapes of a detector that is not ours went: scalars, a CSV and figures in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from anchor_lightning.callbacks.anchor_logger import KEYS, MAX_BOXES, MAX_HISTORY, append_rows, log_figure, thin
from anchor_lightning.detectors.torchvision.generators import LevelShapes
from anchor_lightning.visualization.anchor_plots import anchor_figure, save_figure, trajectory_figure

FIGURE_STEPS: Final = 1000
"""Optimizer steps between figures; one is always drawn at the end."""


class ShapeRecord:
    """The history of the shapes and the boxes that training showed, on rank 0.

    The boxes are what comes out of the detector's own transform, in pixels of the network input: the first 50,000.
    They stay on the device until a figure is drawn.
    """

    def __init__(self) -> None:
        self._history: dict[int, list[list[float]]] = {}  # step -> (A, 2) pixels
        self._boxes: list[Tensor] = []  # (M, 2) pixels, of an image each
        self._num_boxes = 0
        self._last_step = -1
        self._handle: RemovableHandle | None = None

    def state_dict(self) -> dict[str, Any]:
        """The history in plain types: `steps` (S,) and `wh` (S, A, 2) in pixels."""
        return {"steps": list(self._history), "wh": list(self._history.values())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the history of the run that is resumed."""
        self._history = dict(zip(state_dict["steps"], state_dict["wh"], strict=True))

    def start(self, trainer: Trainer, detector: nn.Module) -> None:
        """Begins `anchors.csv` with what is known of the steps before, and watches the training boxes."""
        self.stop()
        self._history = {step: wh for step, wh in self._history.items() if step < trainer.global_step}
        self._boxes, self._num_boxes, self._last_step = [], 0, -1
        if (folder := folder_of(trainer)) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            forget(folder / "anchors.csv")  # of another run, where runs share a folder
            for step, wh in self._history.items():
                append_rows(folder / "anchors.csv", step, torch.tensor(wh))
        if isinstance(transform := getattr(detector, "transform", None), nn.Module):
            self._handle = transform.register_forward_hook(self._watch)

    def step(self, trainer: Trainer, shapes: LevelShapes, every_n_steps: int) -> None:
        """Writes a row, and a figure, when the step is due: the shapes and λ that this step begins with."""
        step = trainer.global_step
        if step == self._last_step:  # equal while batches accumulate
            return
        if step % every_n_steps == 0 or self._last_step < 0:
            self._log(trainer, shapes)
        if step and step % FIGURE_STEPS == 0:
            self._draw(trainer, shapes)
        self._last_step = step

    def finish(self, trainer: Trainer, shapes: LevelShapes) -> None:
        """Writes the last row and the figures."""
        self.stop()
        shapes.step = trainer.global_step
        self._log(trainer, shapes)
        self._draw(trainer, shapes)

    def stop(self) -> None:
        """Watches no boxes any more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _watch(self, transform: nn.Module, _: Any, output: Any) -> None:
        targets = output[1]
        if transform.training and targets is not None and self._num_boxes < MAX_BOXES:
            boxes = [target["boxes"].detach() for target in targets]
            self._boxes += [box[:, 2:] - box[:, :2] for box in boxes]
            self._num_boxes += sum(map(len, boxes))

    def _log(self, trainer: Trainer, shapes: LevelShapes) -> None:
        wh = shapes.wh.cpu()
        metrics = {"anchors/lambda": shapes.clustering_weight}
        for anchor, (w, h) in enumerate(wh.tolist()):
            metrics |= {f"anchors/{anchor}/w": w, f"anchors/{anchor}/h": h}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        if (folder := folder_of(trainer)) is not None:
            append_rows(folder / "anchors.csv", trainer.global_step, wh)
        self._history = thin(self._history | {trainer.global_step: wh.tolist()}, MAX_HISTORY)

    def _draw(self, trainer: Trainer, shapes: LevelShapes) -> None:
        boxes = torch.cat([torch.empty(0, 2), *(box.float().cpu() for box in self._boxes)])[:MAX_BOXES].numpy()
        figures = {
            "anchors": anchor_figure(
                boxes,
                {"initial": shapes.initial_wh.cpu().numpy(), "learned": shapes.wh.cpu().numpy()},
                title=f"Anchors after {trainer.global_step} steps",
            ),
            "trajectory": trajectory_figure(
                np.array(list(self._history)),
                np.array(list(self._history.values())),
                boxes,
                title="Anchors over the steps of training",
            ),
        }
        for name, figure in figures.items():
            if (folder := folder_of(trainer)) is not None:
                save_figure(figure, folder / f"{name}.png")
            for logger in trainer.loggers:
                log_figure(logger, KEYS[name], figure, trainer.global_step)


def folder_of(trainer: Trainer) -> Path | None:
    """The folder of the run, for rank 0; None when the trainer keeps nothing (`fast_dev_run`, `barebones`)."""
    if trainer.fast_dev_run or trainer.barebones:  # type: ignore[attr-defined]  # set at run time
        return None
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    if isinstance(folder := getattr(logger, "log_dir", None), str):
        return Path(folder)
    # Where Lightning's ModelCheckpoint puts its folder.
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version


def forget(path: Path) -> None:
    """Removes an `anchors.csv` of an earlier run; a file of somebody else's, it refuses.

    Raises:
        ValueError: It is one.
    """
    if not path.exists():
        return
    with path.open(errors="replace") as file:
        if file.readline().strip() != "step,anchor,w,h":
            raise ValueError(f"LearnAnchors: {path} is no record of anchors and would be overwritten; move it away")
    path.unlink()
