"""Learning the anchors of the torchvision detector in anybody's LightningModule, without a change to their code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor, nn

from anchor_lightning.anchors import clustering_weight_at
from anchor_lightning.callbacks.own_group import add_own_group
from anchor_lightning.callbacks.seen_boxes import SeenBoxes
from anchor_lightning.callbacks.shape_recorder import ShapeRecorder
from anchor_lightning.callbacks.torchvision_export import (
    CELLS,
    cells_of,
    generator_prefix,
    set_cells,
    write_frozen_checkpoints,
)
from anchor_lightning.detectors.torchvision.convert import (
    Init,
    anchor_shapes,
    freeze_anchors,
    is_detector,
    make_anchors_learnable,
)
from anchor_lightning.detectors.torchvision.generators import LevelShapes
from anchor_lightning.errors import UserError


class LearnAnchors(Callback):
    """Put into a `Trainer`, learns the anchors of the torchvision detector in the module that is fitted.

    Before the optimizer is built the anchors become parameters, and then get a parameter group `anchors` without weight
    decay; when `fit` ends the module has torchvision's classes back, with what was learned. Checkpoints of the training
    hold the learnable shapes, so that it resumes exactly; `test`, `validate` and `predict` take them with this callback
    in the trainer, and strict loading rejects them without it. The run folder gets `anchors.csv`, `anchors.png`,
    `trajectory.png` and, to be loaded without this package, `frozen.ckpt` (a checkpoint with torchvision's keys) and
    `cell_anchors.pt` (such a state dict holds no anchors); if a metric is monitored, `frozen-best.ckpt` and
    `cell_anchors-best.pt` likewise. Soft assignment and the batch norm without shift are not used.

    Args:
        init: Where the shapes start, as in `make_anchors_learnable`. A fit after a fit goes on where that one ended.
        boxes_wh: (N, 2) boxes in pixels of the network input for `kmeans`; by default the data module's
            `train_box_shapes()`.
        detector: Name of the detector within the module, such as `student.model`, where there are several.
        lr_mult: Times the learning rate that optimizer and scheduler give the other parameters.
        clustering_start: λ of Eq. 11 at step 0.
        clustering_steps: Optimizer steps until λ is 0; 0 turns the term off.
        every_n_steps: Optimizer steps between rows of `anchors.csv` and of the loggers.

    Raises:
        UserError: An option is out of range.
    """

    def __init__(
        self,
        init: Init = "model",
        *,
        boxes_wh: Tensor | None = None,
        detector: str | None = None,
        lr_mult: float = 1.0,
        clustering_start: float = 1.0,
        clustering_steps: int = 1500,
        every_n_steps: int = 50,
    ) -> None:
        options = {"lr_mult": lr_mult, "clustering_start": clustering_start, "clustering_steps": clustering_steps}
        for argument, value in options.items():
            if value < 0:
                raise UserError(f"must be 0 or more, got {value}", argument)
        self.init, self.boxes_wh, self.detector, self.lr_mult = init, boxes_wh, detector, lr_mult
        self.clustering_start, self.clustering_steps = clustering_start, clustering_steps
        self._recorder = ShapeRecorder(every_n_steps)
        self._seen = SeenBoxes()
        self._replaced: dict[str, Any] = {}  # hook of the module -> its instance attribute before, None without one
        self._frozen: list[Tensor] | None = None  # anchors that the module was given here
        self._is_thawed = False  # learnable for the evaluation of a checkpoint only

    def state_dict(self) -> dict[str, Any]:
        """The history in plain types, see `ShapeRecorder`."""
        return self._recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the history of the run that is resumed."""
        self._recorder.load_state_dict(state_dict)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the anchors learnable, or arranges for it where the detector is not built yet.

        Raises:
            UserError: There is no detector, or several; or the trainer does what cannot work with it.
        """
        self._undo(pl_module)  # of a run that was cut off before

        def meet_before(load: Callable[..., Any], checkpoint: dict[str, Any]) -> None:
            load(checkpoint)
            self._meet_checkpoint(pl_module, checkpoint, stage == "fit")

        self._replace(pl_module, "on_load_checkpoint", meet_before)
        if stage != "fit":
            return
        self._check(trainer)
        if self._find(pl_module) is not None:
            self._make_learnable(trainer, pl_module)
            return

        def then_learnable(configure: Callable[[], None]) -> None:
            configure()
            self._make_learnable(trainer, pl_module)

        self._replace(pl_module, "configure_model", then_learnable)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the shapes a parameter group: the optimizers are built and have no state of a checkpoint yet."""
        self._undo(pl_module)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        add_own_group(trainer.optimizers, schedulers, self._shapes(pl_module).log_wh, self.lr_mult)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the record in the run folder."""
        if trainer.is_global_zero:
            shapes, seen = self._shapes(pl_module), self._seen
            seen.watch(self._learner(pl_module)[1])
            self._recorder.start(trainer, shapes, seen.wh, lambda _: {"anchors/lambda": shapes.clustering_weight})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets λ of this step, and writes a row when it is due."""
        self._set_clustering_weight(trainer, pl_module)
        if trainer.is_global_zero:
            self._recorder.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the last row and the figures."""
        self._seen.stop()
        self._set_clustering_weight(trainer, pl_module)
        if trainer.is_global_zero:
            self._recorder.finish()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freezes the shapes into torchvision's detector and writes it; every checkpoint is saved by now."""
        name, detector = self._learner(pl_module)
        learned = detector.get_submodule(generator_prefix(detector))
        self._frozen = cells_of(freeze_anchors(detector))
        write_frozen_checkpoints(trainer, name, detector, learned)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the anchors where the state dict has none, after the training."""
        found = self._find(pl_module)
        if self._frozen is not None and found is not None and anchor_shapes(found[1]) is None:
            checkpoint[CELLS] = cells_of(found[1])

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the module as usable as without this callback; its anchors stay learnable."""
        self._undo(pl_module)
        self._seen.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freezes what a checkpoint of the training brought to `test`, `validate` or `predict`."""
        self._undo(pl_module)
        if self._is_thawed:
            detector = self._learner(pl_module)[1]
            self._is_thawed, self._frozen = False, cells_of(freeze_anchors(detector))

    def _set_clustering_weight(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weight = clustering_weight_at(trainer.global_step, self.clustering_start, self.clustering_steps)
        self._shapes(pl_module).clustering_weight = weight

    def _make_learnable(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does so unless they are; a detector that this callback has trained goes on from there."""
        detector = self._learner(pl_module)[1]
        if anchor_shapes(detector) is not None:
            return
        init, boxes_wh = self.init, self.boxes_wh
        if self._frozen is not None and _equal(self._frozen, cells_of(detector)):
            set_cells(detector, self._frozen)  # torchvision keeps them rounded after bfloat16 images
            init = "model"
        elif isinstance(init, str) and init == "kmeans" and boxes_wh is None:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set at run time
            boxes_wh = data.train_box_shapes() if hasattr(data, "train_box_shapes") else None
        make_anchors_learnable(detector, init, boxes_wh=boxes_wh)

    def _meet_checkpoint(self, pl_module: LightningModule, checkpoint: dict[str, Any], is_fit: bool) -> None:
        """Brings the detector into the state that the checkpoint is of, before it is loaded.

        Raises:
            UserError: The checkpoint would leave the detector with anchors that are not its own.
        """
        if (found := self._find(pl_module)) is None:
            return
        name, detector = found
        is_learnable = anchor_shapes(detector) is not None
        if ".".join(filter(None, (name, generator_prefix(detector), "shapes.log_wh"))) in checkpoint["state_dict"]:
            if not is_learnable:
                make_anchors_learnable(detector)
                self._is_thawed = not is_fit
            return
        if is_fit:
            raise UserError(
                "LearnAnchors: the checkpoint is not of a training with LearnAnchors, so it cannot be resumed; load "
                "its weights into the module before fit instead."
            )
        if CELLS not in checkpoint and (is_learnable or self._frozen is not None):
            raise UserError(
                "LearnAnchors: the checkpoint holds no anchors and those of this module have been learned by another "
                "training; load it into a new module."
            )
        if is_learnable:
            freeze_anchors(detector)
        if CELLS in checkpoint:
            self._frozen = checkpoint[CELLS]
            set_cells(detector, checkpoint[CELLS])

    def _check(self, trainer: Trainer) -> None:
        strategy: Any = trainer.strategy
        if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)) or isinstance(
            strategy.launcher, _MultiProcessingLauncher
        ):
            raise UserError(
                "LearnAnchors: works on one device and with strategy='ddp'; sharded strategies and those that spawn "
                "or fork their processes would lose the learned anchors."
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set at run time
        for callback in callbacks[: callbacks.index(self)]:
            if isinstance(callback, (StochasticWeightAveraging, WeightAveraging)):
                raise UserError(
                    f"LearnAnchors: put it before {type(callback).__name__} in the trainer's callbacks, which copies "
                    "the module's parameters."
                )

    def _find(self, pl_module: LightningModule) -> tuple[str, nn.Module] | None:
        """Name and detector; None if there is none (yet)."""
        found = [(name, module) for name, module in pl_module.named_modules() if is_detector(module)]
        if self.detector is not None:
            found = [(name, module) for name, module in found if name == self.detector]
        if len(found) > 1:
            names = ", ".join(name for name, _ in found)
            raise UserError(
                f"{type(pl_module).__name__} has several torchvision detectors ({names}): say which", "detector"
            )
        return found[0] if found else None

    def _learner(self, pl_module: LightningModule) -> tuple[str, nn.Module]:
        """As `_find`.

        Raises:
            UserError: There is none.
        """
        if (found := self._find(pl_module)) is None:
            called = "" if self.detector is None else f" called {self.detector}"
            raise UserError(
                f"LearnAnchors: {type(pl_module).__name__} holds no torchvision detector with anchors{called}: no "
                "Faster, Mask or Keypoint R-CNN, RetinaNet or SSD."
            )
        return found

    def _shapes(self, pl_module: LightningModule) -> LevelShapes:
        shapes = anchor_shapes(self._learner(pl_module)[1])
        assert shapes is not None
        return shapes

    def _replace(self, pl_module: LightningModule, hook: str, by: Callable[..., Any]) -> None:
        """Puts a function into the place of a hook of the module, which is handed on to it, until `_undo`."""
        original = getattr(pl_module, hook)
        self._replaced[hook] = pl_module.__dict__.get(hook)
        # Not `functools.wraps`: Lightning looks through it, finds its own empty hook, and does not call it.
        setattr(pl_module, hook, lambda *args: by(original, *args))

    def _undo(self, pl_module: LightningModule) -> None:
        for hook, before in self._replaced.items():
            if before is None:
                pl_module.__dict__.pop(hook, None)
            else:
                setattr(pl_module, hook, before)
        self._replaced.clear()


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(a.to(b), b) for a, b in zip(some, others, strict=True))
