"""The LightningModule that wires a detector, the anchor shapes and the metrics together."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from typing import Any, Final, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from anchor_lightning.anchors import (
    AnchorOptions,
    anchor_options,
    check_distinct,
    kmeans_shapes,
    learning_rate_at,
)
from anchor_lightning.anchors.assignment import Distance
from anchor_lightning.data.sampler import step_seed
from anchor_lightning.detectors.build import DETECTORS, WEIGHTS, build_detector, start_network
from anchor_lightning.detectors.yolov2.darknet_cfg import read_anchors
from anchor_lightning.metrics.evaluation import Evaluation, scales_to_stored
from anchor_lightning.structures import DetectionBatch, Detections, StepOptions
from anchor_lightning.training.checkpoint_files import FORMAT, OURS, migrate
from anchor_lightning.training.checks import check_checkpoint, check_options, warn_of_grid_units
from anchor_lightning.training.loop_state import batches_done, restore_position, validation_due
from anchor_lightning.training.non_finite import FiniteLoss, NonFiniteLossError
from anchor_lightning.training.optimizer import clip_gradients, parameter_groups

# §4.2.1: (0~100, 1e-4), (100~15000, 1e-3), (15000~27000, 1e-4), (27000~30000, 1e-5)
VOC_LEARNING_RATE: Final = {0: 1e-4, 100: 1e-3, 15000: 1e-4, 27000: 1e-5}


class DetectionTask(LightningModule):
    """Trains a detector together with the anchor shapes (Eq. 7).

    Args:
        num_classes: C; the command line takes it from the data module.
        class_names: Names of the C classes, for logs and metrics.
        image_size: Height and width of the network input in training; the command line takes it from the data module.
            SSD's shapes are shares of it, YOLOv2 and the others do not read it.
        detector: `yolov2`, or one of torchvision's: `faster_rcnn_r50_c4`, `faster_rcnn_r50_fpn`, `retinanet_r50_fpn`,
            `ssd300`, and for small machines `faster_rcnn_small_c4`, `faster_rcnn_small_fpn`, `retinanet_small_fpn`,
            `ssd_small`. Those take neither soft assignment nor the options said to be YOLOv2's.
        anchors: Start and learning of the shapes.
        width: Of YOLOv2: channel multiplier; 1 is the published network, 0.25 suits small machines.
        bn_without_shift: Of YOLOv2: batch norm without shift on Δw, Δh (§3.2.3).
        bn_scale_init: Where the scale of that norm starts.
        distance: Of YOLOv2: distance of the assignment after the warm-up, `iou` or `l2`; before, that of
            `soft_assignment`.
        learning_rate: First optimizer step of each stretch -> its rate; one entry is for step 0.
        momentum: Of SGD.
        weight_decay: On the convolutions' weights; never on biases, batch norms and shapes.
        backbone_weights: darknet's DarkNet-19 as trained for classification (`darknet19_448.conv.23`) to start from.
        weights: A whole YOLOv2 of darknet (`yolov2-voc.weights`, `yolov2.weights`) to start from; `anchors.init` is
            then its `.cfg`, `yolov2-voc` or `yolov2-coco`. A checkpoint wins over both.
        weights_backbone: Of torchvision's detectors: torchvision's name of the backbone's weights (`IMAGENET1K_V1`;
            SSD: `IMAGENET1K_FEATURES`), which is downloaded, or the path of a file with such a state dict.
        prior_images: Of YOLOv2: while fewer images than this were seen (steps x global batch), anchors without a box
            are pulled to the cell's centre and their own shape, as in darknet; 0 is off.
        score_threshold: Detections that score up to this are dropped.
        compile: Of YOLOv2: compile the network with `torch.compile`.

    Attributes:
        shapes: The owner of the shapes.
        temperature: T of Eq. 10, set by the `SoftAssignment` callback.
        distance: Distance of the assignment in force, set by the same.
        clustering_weight: λ of Eq. 11, set by the `ClusteringDecay` callback.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        class_names: list[str] | None = None,
        image_size: list[int] | None = None,
        detector: str = "yolov2",
        anchors: AnchorOptions | None = None,
        width: float = 1.0,
        bn_without_shift: bool = True,
        bn_scale_init: float = 1.0,
        distance: Distance = "iou",
        learning_rate: dict[int, float] = VOC_LEARNING_RATE,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        backbone_weights: str | None = None,
        weights: str | None = None,
        weights_backbone: str | None = None,
        prior_images: int = 12800,
        score_threshold: float = 0.005,
        compile: bool = False,
    ) -> None:
        super().__init__()
        # A checkpoint holds plain types, so a dict comes back from it.
        options = anchor_options(anchors) if isinstance(anchors, dict) else anchors or AnchorOptions()
        if isinstance(options.init, str) and options.init.endswith(".cfg"):
            # The numbers rather than the path: a checkpoint must not need the file.
            options = replace(options, init=read_anchors(options.init).tolist())
        warn_of_grid_units(options.init)
        self.save_hyperparameters()
        # Plain types only: every checkpoint loads with torch.load(weights_only=True).
        self.hparams.update(
            {
                "anchors": asdict(options),
                "learning_rate": dict(learning_rate),
                "image_size": None if image_size is None else list(image_size),
            }
        )
        check_options(self.hparams, DETECTORS)
        self.class_names = class_names or [f"class {index}" for index in range(num_classes)]
        # Of a stock detector the shapes are a part as well; here is the name that all detectors share.
        self.detector, self.shapes = build_detector(self.hparams, options)
        self.detector.to(memory_format=torch.channels_last)
        self.temperature = 0.0
        self.clustering_weight = 0.0
        self.distance: Distance = distance
        self.evaluation: Evaluation | None = None
        self._network_pending = True
        self._images_before = 0
        self._step = self._validated = -1
        self._finite = FiniteLoss()

    def setup(self, stage: str) -> None:
        """Compiles the network if asked to."""
        if not self.hparams["compile"]:
            return
        if any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
            self.detector.compile()
        else:
            rank_zero_warn("model.compile: no C++ compiler was found (c++, g++, clang++); the network runs uncompiled.")

    def check_start(self, data: Any) -> None:
        """Refuses what a run without a checkpoint could not start from, before anything is written.

        Args:
            data: The data module that the run will have.

        Raises:
            ValueError: A file of weights is missing or does not fit, or k-means has too few distinct boxes.
        """
        if self._network_pending and any(self.hparams[name] for name in WEIGHTS):
            self._start_network()
        if self.shapes.pending:
            check_distinct(data.train_box_shapes(), len(self.shapes.log_wh))

    def _start(self) -> None:
        """Gives network and shapes their first values, unless a checkpoint has given them already.

        This hook's callers rather than `setup`, because they run after a checkpoint has been restored; parameters are
        filled in place, so the optimizer and DDP already hold them.
        """
        if self._network_pending:
            self._start_network()
        if self.shapes.pending:
            self._start_shapes()

    def _start_network(self) -> None:
        self._network_pending = False
        self._images_before = start_network(self.detector, self.hparams)

    def _start_shapes(self) -> None:
        """k-means, on rank 0."""
        result: Tensor | str = ""
        if self.trainer.is_global_zero:
            try:
                result = kmeans_shapes(self.data.train_box_shapes(), len(self.shapes.log_wh))
            except ValueError as error:  # the other ranks wait for the broadcast below
                result = str(error)
        result = self.trainer.strategy.broadcast(result)
        if isinstance(result, str):
            raise ValueError(result)
        self.shapes.set_initial(result.to(self.device))

    @property
    def data(self) -> Any:
        """The data module of the run.

        Raises:
            ValueError: The trainer was given loaders instead: shapes and metrics need the boxes of whole splits.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # Trainer attaches it at run time
        if data is None:
            raise ValueError("Give the trainer a data module (datamodule=...) with train_box_shapes and ground_truth.")
        return data

    def forward(self, images: Tensor) -> list[Detections]:
        """Detections of (B, 3, H, W) RGB images in [0, 1], in pixels of these."""
        return self.detector.detect(images, self.shapes, self.hparams["score_threshold"])

    # Training

    def on_fit_start(self) -> None:
        """Starts network and shapes."""
        self._finite.reset()
        self._step = self._validated = -1
        self._start()

    def on_train_start(self) -> None:
        """Puts this run's options into the optimizer, which has taken those of a checkpoint when it was restored."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        for group, options in zip(optimizer.param_groups, self._parameter_groups(), strict=True):
            group |= {name: value for name, value in options.items() if name != "params"}
            group["momentum"] = self.hparams["momentum"]

    def on_train_end(self) -> None:
        """Reads the verdict on the last losses."""
        try:
            self._finite.read()
        except NonFiniteLossError as error:
            raise self._told(error) from None

    def on_train_batch_start(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Sets the learning rates of this optimizer step, and the seed of what it draws."""
        step = self.trainer.global_step
        if step != self._step:
            # torchvision's second stage samples its proposals; a resumed step has to draw what it drew before.
            torch.manual_seed(step_seed(step, self.trainer.global_rank))
            # Lightning's step axis of the loggers, which is off by one after a resume from within a step.
            self.trainer.fit_loop.epoch_loop._batches_that_stepped = step
            self._step = step
        rate = learning_rate_at(step, self.hparams["learning_rate"])
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_mult"]

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """The loss of Eq. 11: the detector's terms plus the clustering term."""
        seen = self._images_seen(len(batch) * self.trainer.world_size)
        step = StepOptions(
            temperature=torch.full((), self.temperature, device=self.device),
            distance=self.distance,
            clustering_weight=self.clustering_weight,
            num_boxes=self._global_num_boxes(batch.mask),
            world_size=self.trainer.world_size,
            prior=torch.full((), float(seen < self.hparams["prior_images"]), device=self.device),
        )
        terms = self.detector.training_losses(batch, self.shapes, step)
        loss = torch.stack(list(terms.values())).sum()
        terms = {name: term.detach() for name, term in terms.items()}
        every = self.trainer.log_every_n_steps or 1  # type: ignore[attr-defined]  # set at run time
        every = 1 if self.device.type == "cpu" else every  # an accelerator would be waited for
        try:
            self._finite.update(loss.detach(), terms, batch, self.trainer.global_step, every)
        except NonFiniteLossError as error:
            raise self._told(error) from None
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, batch_size=len(batch))
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        # A bar that is given the tensor makes the host wait for the device at every step.
        self.log("loss", self._finite.shown, batch_size=len(batch), prog_bar=True, logger=False)
        return loss

    def _images_seen(self, global_batch: int) -> int:
        """Training images before this step, those of the darknet weights that the network started from included."""
        steps = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return self._images_before + steps * global_batch

    def _global_num_boxes(self, mask: Tensor) -> Tensor:
        """Eq. 11's N: the boxes of the global batch, at least 1."""
        num_boxes = mask.sum().float()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(num_boxes)
        return num_boxes.clamp_min(1)

    def _told(self, error: NonFiniteLossError) -> FloatingPointError:
        images = ", ".join(self.data.image_names("train", error.image_ids))
        return FloatingPointError(
            f"{error} Lower model.learning_rate, or look at the images: {images}. {self._last_checkpoint()}"
        )

    def _last_checkpoint(self) -> str:
        callback = self.trainer.checkpoint_callback
        path = getattr(callback, "last_model_path", "") or getattr(callback, "best_model_path", "")
        return f"The last checkpoint, from before, is {path}." if path else "No checkpoint was written yet."

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over `network` (weights decayed), `network_no_decay` (biases, batch norms) and `anchors` (no decay)."""
        rate = learning_rate_at(0, self.hparams["learning_rate"])
        return torch.optim.SGD(self._parameter_groups(), lr=rate, momentum=self.hparams["momentum"])

    def _parameter_groups(self) -> list[dict[str, Any]]:
        return parameter_groups(
            self.detector, self.shapes, self.hparams["weight_decay"], self.hparams["anchors"]["lr_mult"]
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the network's gradients as the trainer asks; those of the shapes are never touched."""
        if gradient_clip_val:
            clip_gradients(self.detector, self.shapes, gradient_clip_val, gradient_clip_algorithm)

    # Evaluation and prediction

    def detect(self, batch: DetectionBatch) -> list[Detections]:
        """The detections of each image, in pixels of the stored images."""
        if len(batch) == 0:  # a rank without images of its own
            return []
        try:
            found = self(batch.images)
        except ValueError as error:
            raise ValueError(
                f"{error} (Images {batch.image_ids.tolist()}.) Its weights are broken: train from an earlier "
                "checkpoint, or with a lower model.learning_rate."
            ) from None
        return [
            Detections(d.boxes_xyxy * scale, d.scores, d.labels, d.anchors)
            for d, scale in zip(found, scales_to_stored(batch), strict=True)
        ]

    def on_validation_start(self) -> None:
        """Prepares the metrics of the validation split."""
        self._start_evaluation("val")

    def on_test_start(self) -> None:
        """Prepares the metrics of the test split."""
        self._start_evaluation("test")

    def on_predict_start(self) -> None:
        """Starts network and shapes if no checkpoint did."""
        self._start()

    def _start_evaluation(self, split: Literal["val", "test"]) -> None:
        self._start()
        self.evaluation = Evaluation(self.data.ground_truth(split), self.class_names, self.detector.is_two_stage)

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Hands the batch's detections, and the proposals of a first stage, to the metrics."""
        assert self.evaluation is not None
        detections = self.detect(batch)
        self.evaluation.update(batch, detections, self.detector.proposals if self.detector.is_two_stage else ())

    def test_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Hands the batch's detections to the metrics."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Computes and logs the metrics once, over all ranks."""
        self._log_metrics("val")
        if not self.trainer.sanity_checking:
            self._validated = batches_done(self.trainer)

    def on_test_epoch_end(self) -> None:
        """Computes and logs the metrics once, over all ranks."""
        self._log_metrics("test")

    def _log_metrics(self, prefix: str) -> None:
        assert self.evaluation is not None
        if not self.trainer.sanity_checking:
            metrics = self.evaluation.compute(per_class=prefix == "test")
            # Equal on all ranks already; without sync_dist Lightning warns about each of them.
            self.log_dict({f"{prefix}/{name}": value for name, value in metrics.items()}, sync_dist=True)
        self.evaluation = None  # a split's detections are large

    def predict_step(self, batch: DetectionBatch, batch_idx: int) -> tuple[Tensor, list[Detections]]:
        """Image ids and detections, in pixels of the stored images."""
        return batch.image_ids, self.detect(batch)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to write weights that a loss that was not finite has spoilt."""
        try:
            self._finite.read()
        except NonFiniteLossError as error:
            raise self._told(error) from None
        if broken := self._finite.reason(checkpoint["state_dict"]):
            raise FloatingPointError(f"{broken}; nothing was written. {self._last_checkpoint()}")
        if self._trainer is not None and (data := self.trainer.datamodule) is not None:  # type: ignore[attr-defined]
            # What `export` must know and the weights do not say.
            checkpoint.setdefault(OURS, {}).update(
                image_size=list(data.val_image_size),
                images_seen=self._images_seen(data.batch_size),
                images_before=self._images_before,
                validation_due=self.trainer.state.fn == "fit" and validation_due(self.trainer, self._validated),
            )
        checkpoint.setdefault(OURS, {})["format"] = FORMAT

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint that this model cannot continue, and prepares the data position of one that it can.

        Raises:
            ValueError: See `check_checkpoint`.
        """
        check_checkpoint(checkpoint, self.hparams, len(self.shapes.log_wh))
        migrate(checkpoint)
        self._network_pending = False
        self._images_before = checkpoint[OURS]["images_before"]
        if self._trainer is not None and "loops" in checkpoint:
            missing = checkpoint[OURS].get("validation_due", False)
            restore_position(checkpoint, self.trainer.accumulate_grad_batches, missing)
