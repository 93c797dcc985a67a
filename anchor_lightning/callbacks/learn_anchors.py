"""Lets the torchvision detector inside anybody's LightningModule learn its anchors, without a change to their code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor, nn

from anchor_lightning.callbacks.own_group import build_optimizers
from anchor_lightning.callbacks.shape_record import ShapeRecord, folder_of
from anchor_lightning.callbacks.stock_export import (
    CELLS,
    cells_of,
    generator_prefix,
    set_cells,
    write_stock_checkpoints,
)
from anchor_lightning.detectors.torchvision.convert import (
    Init,
    anchor_shapes,
    freeze_anchors,
    is_detector,
    make_anchors_learnable,
)
from anchor_lightning.detectors.torchvision.generators import LevelShapes

ABSENT: Final = object()


class LearnAnchors(Callback):
    """Put into a `Trainer`, learns the anchors of the torchvision detector in the module that is fitted.

    Before the optimizer is built the anchors become parameters, in a parameter group `anchors` without weight decay;
    when `fit` ends the module has its stock classes back, with what was learned. Checkpoints of the training hold the
    learnable shapes, so that it resumes exactly; `test`, `validate` and `predict` take them with this callback in the
    trainer, and strict loading refuses them without it. The run folder gets `anchors.csv`, `anchors.png`,
    `trajectory.png` and, to be loaded without this package, `frozen.ckpt` (a checkpoint with the stock keys) and
    `cell_anchors.pt` (a stock state dict holds no anchors); if a metric is monitored, `frozen-best.ckpt` and
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
        ValueError: An option is out of range.
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
        if lr_mult < 0 or clustering_start < 0 or clustering_steps < 0 or every_n_steps < 1:
            raise ValueError(
                f"LearnAnchors: lr_mult ({lr_mult}), clustering_start ({clustering_start}) and clustering_steps "
                f"({clustering_steps}) must be 0 or more, every_n_steps ({every_n_steps}) 1 or more"
            )
        self.init, self.boxes_wh, self.detector = init, boxes_wh, detector
        self.lr_mult, self.every_n_steps = lr_mult, every_n_steps
        self.clustering_start, self.clustering_steps = clustering_start, clustering_steps
        self._record = ShapeRecord()
        self._replaced: dict[str, Any] = {}  # hook of the module -> its instance attribute before
        self._frozen: list[Tensor] | None = None  # anchors that the module was given here
        self._is_thawed = False  # learnable for the evaluation of a checkpoint only

    def state_dict(self) -> dict[str, Any]:
        """The history in plain types: `steps` (S,) and `wh` (S, A, 2) in pixels."""
        return self._record.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the history of the run that is resumed."""
        self._record.load_state_dict(state_dict)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the anchors learnable, or arranges for it where the detector is not built yet.

        Raises:
            ValueError: There is no detector, or several; or the trainer does what cannot work with it.
        """
        self._undo(pl_module)  # of a run that was cut off before
        is_fit = stage == "fit"

        def before_load(load: Callable[..., Any], checkpoint: dict[str, Any]) -> None:
            load(checkpoint)
            self._meet_checkpoint(pl_module, checkpoint, is_fit)

        self._replace(pl_module, "on_load_checkpoint", before_load)
        if not is_fit:
            return
        self._check(trainer)

        def with_own_group(configure: Callable[[], Any]) -> Any:
            return build_optimizers(configure, self._shapes(pl_module).log_wh, self.lr_mult)

        self._replace(pl_module, "configure_optimizers", with_own_group)
        if self._find(pl_module) is not None:
            self._make_learnable(trainer, pl_module)
            return

        def then_learnable(configure: Callable[[], None]) -> None:
            configure()
            self._make_learnable(trainer, pl_module)

        self._replace(pl_module, "configure_model", then_learnable)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the hooks off the module: the optimizers are built."""
        self._undo(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the record in the run folder."""
        if trainer.is_global_zero:
            self._record.start(trainer, self._learner(pl_module)[1])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Tells the shapes the step, on which λ depends, and writes a row when it is due."""
        shapes = self._shapes(pl_module)
        shapes.step = trainer.global_step
        if trainer.is_global_zero:
            self._record.step(trainer, shapes, self.every_n_steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the last row and the figures."""
        if trainer.is_global_zero:
            self._record.finish(trainer, self._shapes(pl_module))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freezes the shapes into the stock detector and writes it down; every checkpoint is saved by now."""
        name, detector = self._learner(pl_module)
        learned = detector.get_submodule(generator_prefix(detector))
        self._frozen = cells_of(freeze_anchors(detector))
        folder = folder_of(trainer) if trainer.is_global_zero else None
        write_stock_checkpoints(trainer, name, detector, learned, folder)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the anchors where the state dict has none, after the training."""
        found = self._find(pl_module)
        if self._frozen is not None and found is not None and anchor_shapes(found[1]) is None:
            checkpoint[CELLS] = cells_of(found[1])

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the module as usable as without this callback; its anchors stay learnable."""
        self._undo(pl_module)
        self._record.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freezes what a checkpoint of the training brought to `test`, `validate` or `predict`."""
        self._undo(pl_module)
        if self._is_thawed:
            detector = self._learner(pl_module)[1]
            self._is_thawed, self._frozen = False, cells_of(freeze_anchors(detector))

    def _make_learnable(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does so unless they are; a detector that this callback has trained goes on from there."""
        detector = self._learner(pl_module)[1]
        shapes = anchor_shapes(detector)
        if shapes is None:
            init, boxes_wh = self.init, self.boxes_wh
            if self._frozen is not None and _equal(self._frozen, cells_of(detector)):
                set_cells(detector, self._frozen)  # torchvision keeps them rounded after bfloat16 images
                init = "model"
            elif isinstance(init, str) and init == "kmeans" and boxes_wh is None:
                data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set at run time
                if not hasattr(data, "train_box_shapes"):
                    raise ValueError(
                        "LearnAnchors: init kmeans needs boxes_wh, (N, 2) training boxes in pixels of the network input"
                    )
                boxes_wh = data.train_box_shapes()
            make_anchors_learnable(detector, init, boxes_wh=boxes_wh)
            shapes = self._shapes(pl_module)
        shapes.clustering_start, shapes.clustering_steps = self.clustering_start, self.clustering_steps

    def _meet_checkpoint(self, pl_module: LightningModule, checkpoint: dict[str, Any], is_fit: bool) -> None:
        """Brings the detector into the state that the checkpoint is of, before it is loaded.

        Raises:
            ValueError: The checkpoint would leave the detector with anchors that are not its own.
        """
        found = self._find(pl_module)
        if found is None:
            return
        name, detector = found
        is_learnable = anchor_shapes(detector) is not None
        if ".".join(filter(None, (name, generator_prefix(detector), "shapes.log_wh"))) in checkpoint["state_dict"]:
            if not is_learnable:
                make_anchors_learnable(detector)
                self._is_thawed = not is_fit
            return
        if is_fit:
            raise ValueError(
                "LearnAnchors: the checkpoint is not of a training with LearnAnchors, so it cannot be resumed; load "
                "its weights into the module before fit instead."
            )
        if CELLS not in checkpoint and (is_learnable or self._frozen is not None):
            raise ValueError(
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
            raise ValueError(
                "LearnAnchors: works on one device and with strategy='ddp'; sharded strategies and those that spawn "
                "or fork their processes would lose the learned anchors."
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set at run time
        for callback in callbacks[: callbacks.index(self)]:
            if isinstance(callback, (StochasticWeightAveraging, WeightAveraging)):
                raise ValueError(
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
            raise ValueError(
                f"LearnAnchors: {type(pl_module).__name__} has several torchvision detectors ({names}): say which with "
                "LearnAnchors(detector=...)."
            )
        return found[0] if found else None

    def _learner(self, pl_module: LightningModule) -> tuple[str, nn.Module]:
        """As `_find`.

        Raises:
            ValueError: There is none.
        """
        if (found := self._find(pl_module)) is None:
            called = "" if self.detector is None else f" called {self.detector}"
            raise ValueError(
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
        stock = getattr(pl_module, hook)
        self._replaced[hook] = pl_module.__dict__.get(hook, ABSENT)

        # Not `functools.wraps`: Lightning looks through it, finds its own empty hook, and does not call it.
        def instead(*args: Any, **kwargs: Any) -> Any:
            return by(stock, *args, **kwargs)

        setattr(pl_module, hook, instead)

    def _undo(self, pl_module: LightningModule) -> None:
        for hook, before in self._replaced.items():
            if before is ABSENT:
                pl_module.__dict__.pop(hook, None)
            else:
                setattr(pl_module, hook, before)
        self._replaced.clear()


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(a.to(b), b) for a, b in zip(some, others, strict=True))
