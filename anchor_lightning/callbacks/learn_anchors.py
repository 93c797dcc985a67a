"""Learning the anchors of the torchvision detector in anybody's LightningModule, without a change to their code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from anchor_lightning.anchors import clustering_weight_at, temperature_at
from anchor_lightning.callbacks.anchor_logger import end_verdict, format_table, learned_table, usage, vanished_text
from anchor_lightning.callbacks.lightning_classes import is_lightning
from anchor_lightning.callbacks.own_group import add_own_group
from anchor_lightning.callbacks.shape_recorder import MAX_BOXES, ShapeRecorder
from anchor_lightning.callbacks.torchvision_export import (
    cells_of,
    frame_of,
    generator_name,
    generator_of,
    set_cells,
    state_frame,
    write_frozen_checkpoints,
)
from anchor_lightning.detectors.torchvision.convert import (
    Init,
    anchor_shapes,
    freeze_anchors,
    is_detector,
    make_anchors_learnable,
)
from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import CELLS


class LearnAnchors(ShapeRecorder):
    """Callback that learns the anchors of the torchvision detector in the module that is fitted.

    They become parameters in a group `anchors` without weight decay; when `fit` ends the module has torchvision's
    classes back. Checkpoints of the training hold the learnable shapes: `test`, `validate` and `predict` of one need
    this callback too. The run folder gets `anchors.csv`, `anchors.png`, `trajectory.png` and, to be loaded without this
    package, `frozen.ckpt` and `cell_anchors.pt`; with a monitored metric also those ending in `-best`. A summary of the
    shapes, how well they fit before and after, and where the model is, is printed at the end.

    Args:
        init: Where the shapes start, as in `make_anchors_learnable`. A fit after a fit goes on where that one ended.
        boxes_wh: (N, 2) px of the network input, for `kmeans`; by default the data module's `train_box_shapes()`.
        detector: Name of the detector within the module, such as `student.model`, where there are several.
        lr_mult: Times the learning rate that optimizer and scheduler give the other parameters.
        clustering_start: λ of Eq. 11 at step 0.
        clustering_steps: Optimizer steps until λ is 0; 0 turns the term off.
        soft_start: T of Eq. 10 at step 0.
        soft_steps: Optimizer steps until T is 0, the hard assignment; as long as T is above 0 the distance is `l2`.
        bound_octaves: How far the scale of a shape may leave those with which its level started, in factors of 2;
            without limit if not given.
        share_levels: The shapes of all levels move together, as one set in units of each level's own.
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
        soft_start: float = 2.0,
        soft_steps: int = 0,
        bound_octaves: float | None = None,
        share_levels: bool = False,
        every_n_steps: int = 50,
    ) -> None:
        super().__init__(every_n_steps)
        self.init, self.boxes_wh, self.detector, self.lr_mult = init, boxes_wh, detector, lr_mult
        self.clustering_start, self.clustering_steps = clustering_start, clustering_steps
        self.soft_start, self.soft_steps = soft_start, soft_steps
        self.bound_octaves, self.share_levels = bound_octaves, share_levels
        numbers = ("lr_mult", "clustering_start", "clustering_steps", "soft_start", "soft_steps", "bound_octaves")
        for argument in numbers:
            if (value := getattr(self, argument)) is not None and value < 0:
                raise UserError(f"must be 0 or more, got {value}", argument)
        self._replaced: dict[str, Any] = {}  # hook of the module -> its instance attribute before, None without one
        self._frozen: list[Tensor] | None = None  # anchors that the module was given here
        self._is_thawed = False  # learnable for the evaluation of a checkpoint only
        self._watching: Any = None  # handle of the hook that sees the boxes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the anchors learnable, once the detector is built; a `UserError` where there is none, or several."""
        self._undo(pl_module)  # of a run that was cut off before
        is_fit = stage == "fit"
        self._let_follow(pl_module, "on_load_checkpoint", lambda content: self._adapt(pl_module, content, is_fit))
        if is_fit:
            self._check(trainer)
            if self._found(pl_module):
                self._make_learnable(trainer, pl_module)
            else:
                self._let_follow(pl_module, "configure_model", lambda: self._make_learnable(trainer, pl_module))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the shapes a parameter group: the optimizers are built and have no state of a checkpoint yet."""
        self._undo(pl_module)
        shapes = anchor_shapes(self._find(pl_module)[1])
        assert shapes is not None
        if self.bound_octaves is not None or self.share_levels:  # else whoever made them learnable may have done so
            shapes.constrain(self.bound_octaves, self.share_levels)
        self._shapes = shapes
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        add_own_group(trainer.optimizers, schedulers, shapes.log_wh, self.lr_mult)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the record in the run folder."""
        if trainer.is_global_zero:
            detector = self._find(pl_module)[1]
            self.record(trainer, self._shapes, self._watch(detector), self._metrics, frame_of(detector))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets λ and T of this step, and writes a row when it is due."""
        self._set_schedules(trainer)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the last row and the figures, and prints what was learned, as `AnchorLogger` does."""
        self._set_schedules(trainer)
        super().on_train_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        boxes, initial, wh = self._boxes_of(), self._shapes.initial_wh.cpu(), self._shapes.wh.detach().cpu()
        rank_zero_info(format_table(*learned_table(initial, wh, usage(boxes, wh), self._shapes.num_per_level)))
        if len(boxes):
            rank_zero_info(end_verdict(boxes, initial, wh))
        else:
            rank_zero_info("The training showed no box: how well the shapes fit is not known.")
        if warning := vanished_text(wh):
            rank_zero_warn(warning)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freezes the shapes into torchvision's detector and writes it; every checkpoint is saved by now."""
        name, detector = self._find(pl_module)
        learned = generator_of(detector)
        self._frozen = cells_of(generator_of(freeze_anchors(detector)))
        write_frozen_checkpoints(trainer, name, detector, learned)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds what the anchors are for, and the anchors where the state dict has none (after the training)."""
        detector = self._find(pl_module)[1]
        if self._frozen is not None and anchor_shapes(detector) is None:
            checkpoint[CELLS] = cells_of(generator_of(detector))
        state_frame(checkpoint, detector)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the module as usable as without this callback; its anchors stay learnable."""
        self._undo(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freezes what a checkpoint of the training brought to `test`, `validate` or `predict`."""
        self._undo(pl_module)
        if self._is_thawed:
            detector = freeze_anchors(self._find(pl_module)[1])
            self._is_thawed, self._frozen = False, cells_of(generator_of(detector))

    def _set_schedules(self, trainer: Trainer) -> None:
        shapes, step = self._shapes, trainer.global_step
        shapes.clustering_weight = clustering_weight_at(step, self.clustering_start, self.clustering_steps)
        temperature = temperature_at(step, self.soft_start, self.soft_steps)
        shapes.temperature, shapes.distance = temperature, "l2" if temperature > 0 else "iou"

    def _metrics(self, wh: Tensor) -> dict[str, float]:
        shapes = self._shapes
        return {"anchors/lambda": shapes.clustering_weight, "anchors/temperature": float(shapes.temperature)}

    def _watch(self, detector: nn.Module) -> Callable[[], Tensor]:
        """Gives the first 50,000 boxes that training shows a detector, as its own transform does."""
        seen: list[Tensor] = []  # (N, 2) widths and heights of a batch each, on their device until they are asked for

        def see(transform: nn.Module, _: Any, output: Any) -> None:
            if transform.training and output[1] is not None:
                boxes = torch.cat([target["boxes"].detach() for target in output[1]])
                seen.append(boxes[:, 2:] - boxes[:, :2])
                if sum(map(len, seen)) >= MAX_BOXES:
                    self._watching.remove()

        self._watching = detector.get_submodule("transform").register_forward_hook(see)
        return lambda: torch.cat([torch.empty(0, 2), *(wh.float().cpu() for wh in seen)])[:MAX_BOXES]

    def _make_learnable(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does so unless they are; a detector that this callback has trained goes on from there."""
        detector = self._find(pl_module)[1]
        if anchor_shapes(detector) is not None:
            return
        init, boxes_wh = self.init, self.boxes_wh
        cells, frozen = cells_of(generator_of(detector)), self._frozen or []
        if len(cells) == len(frozen) and all(torch.equal(a.to(b), b) for a, b in zip(frozen, cells, strict=True)):
            set_cells(generator_of(detector), frozen)  # torchvision keeps them rounded after bfloat16 images
            init = "model"
        elif isinstance(init, str) and init == "kmeans" and boxes_wh is None:
            boxes_of = getattr(trainer.datamodule, "train_box_shapes", None)  # type: ignore[attr-defined]  # set at run time
            boxes_wh = boxes_of and boxes_of()
        make_anchors_learnable(detector, init, boxes_wh=boxes_wh)

    def _adapt(self, pl_module: LightningModule, checkpoint: dict[str, Any], is_fit: bool) -> None:
        """Brings the detector into the state that a checkpoint is of, which is about to be loaded."""
        if not self._found(pl_module):
            return
        name, detector = self._find(pl_module)
        is_learnable = anchor_shapes(detector) is not None
        if f"{generator_name(name, detector)}.shapes.log_wh" in checkpoint["state_dict"]:
            if not is_learnable:
                make_anchors_learnable(detector)
                self._is_thawed = not is_fit
            return
        if is_fit:
            raise UserError(
                "the checkpoint is not of a training with LearnAnchors, so it cannot be resumed; load its weights into "
                "the module before fit instead"
            )
        if CELLS not in checkpoint and (is_learnable or self._frozen is not None):
            raise UserError(
                "the checkpoint holds no anchors and those of this module have been learned by another training; load "
                "it into a new module"
            )
        if is_learnable:
            freeze_anchors(detector)
        if CELLS in checkpoint:
            self._frozen = checkpoint[CELLS]
            set_cells(generator_of(detector), checkpoint[CELLS])

    def _check(self, trainer: Trainer) -> None:
        strategy: Any = trainer.strategy
        is_sharded = is_lightning(strategy, "FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
        if is_sharded or is_lightning(strategy.launcher, "_MultiProcessingLauncher"):
            raise UserError(
                "LearnAnchors works on one device and with strategy='ddp'; sharded strategies and those that spawn or "
                "fork their processes would lose the learned anchors"
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set at run time
        for callback in callbacks[: callbacks.index(self)]:
            if is_lightning(callback, "StochasticWeightAveraging", "WeightAveraging"):
                name = type(callback).__name__
                raise UserError(f"put LearnAnchors before {name}, which copies the module's parameters")

    def _found(self, pl_module: LightningModule) -> list[tuple[str, nn.Module]]:
        return [pair for pair in pl_module.named_modules() if is_detector(pair[1]) and self.detector in (None, pair[0])]

    def _find(self, pl_module: LightningModule) -> tuple[str, nn.Module]:
        if len(found := self._found(pl_module)) == 1:
            return found[0]
        kind = type(pl_module).__name__
        if found:
            names = ", ".join(name for name, _ in found)
            raise UserError(f"{kind} has several torchvision detectors ({names}): say which", "detector")
        called = "" if self.detector is None else f" called {self.detector}"
        kinds = "Faster, Mask or Keypoint R-CNN, RetinaNet or SSD"
        raise UserError(f"{kind} holds no torchvision detector with anchors{called}: no {kinds}")

    def _let_follow(self, pl_module: LightningModule, hook: str, then: Callable[..., None]) -> None:
        """Has a hook of the module followed by a function of the same arguments, until `_undo`."""
        original = getattr(pl_module, hook)
        self._replaced[hook] = pl_module.__dict__.get(hook)

        # Not `functools.wraps`: Lightning looks through it, finds its own empty hook, and does not call it.
        def both(*args: Any) -> None:
            original(*args)
            then(*args)

        setattr(pl_module, hook, both)

    def _undo(self, pl_module: LightningModule) -> None:
        for hook, before in self._replaced.items():
            pl_module.__dict__.pop(hook, None)
            if before is not None:
                setattr(pl_module, hook, before)
        self._replaced.clear()
        if self._watching is not None:
            self._watching.remove()
