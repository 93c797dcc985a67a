"""The LightningModule that wires a detector, its anchor shapes and the metrics together."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Final, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from anchor_lightning.anchors import AnchorOptions, AnchorShapes
from anchor_lightning.anchors.assignment import Distance
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.detectors.base import Detector, DetectorFactory, build_detector, detector_config
from anchor_lightning.errors import NonFiniteOutputError, UserError
from anchor_lightning.fitting import check_distinct, kmeans_shapes
from anchor_lightning.fitting.initial import resolve_anchors
from anchor_lightning.metrics.evaluation import Evaluation, EvaluationDetails, scales_to_stored
from anchor_lightning.structures import DetectionBatch, Detections, DetectorOutput, StepOptions
from anchor_lightning.training.checkpoint_files import FORMAT, PROJECT_KEY, check_checkpoint
from anchor_lightning.training.lightning_private import start_averages
from anchor_lightning.training.non_finite import NonFiniteLoss, check_weights_finite
from anchor_lightning.training.optimizer import StepSeed, StepwiseLR, clip_gradients, parameter_groups
from anchor_lightning.training.trainer_checks import check_averaging, check_whole_step

# §4.2.1: (0~100, 1e-4), (100~15000, 1e-3), (15000~27000, 1e-4), (27000~30000, 1e-5)
VOC_LEARNING_RATE: Final = {0: 1e-4, 100: 1e-3, 15000: 1e-4, 27000: 1e-5}


class DetectionTask(LightningModule):
    """Trains a detector together with its anchor shapes (Eq. 7).

    Args:
        num_classes: C; the command line takes it from the data module.
        class_names: Names of the C classes, for logs and metrics.
        image_size: Height and width of the network input in training; the command line takes it from the data module.
        detector: Class of the detector with its options: `YOLOv2`, `YOLOv3`, `FasterRCNN`, `RetinaNet` or `SSD`.
            In Python a class, `functools.partial` of one, or a dict of `class_path` and `init_args`.
        anchors: Start and learning of the shapes.
        distance: Distance of the assignment after the warm-up, `iou` or `l2`; before, that of `soft_assignment`.
        learning_rate: First optimizer step of each stretch -> its rate, as in {0: 1e-4, 100: 1e-3}; or one rate.
        momentum: Of SGD, in [0, 1).
        weight_decay: On the weights of convolutions and linear layers; never on biases, batch norms and shapes.
        score_threshold: Detections that score up to this are dropped; in [0, 1).

    Attributes:
        detector: The detector, which owns the shapes.
        temperature: T of Eq. 10, set by the `SoftAssignment` callback.
        distance: Distance of the assignment in force, set by the same.
        clustering_weight: λ of Eq. 11, set by the `ClusteringDecay` callback.
        evaluation_details: Curves and confusion matrix of the last `validate` or `test`.

    Raises:
        UserError: An option is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        class_names: list[str] | None = None,
        image_size: list[int] | None = None,
        detector: DetectorFactory = YOLOv2,
        anchors: AnchorOptions | None = None,
        distance: Distance = "iou",
        learning_rate: float | dict[int, float] = VOC_LEARNING_RATE,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        score_threshold: float = 0.005,
    ) -> None:
        super().__init__()
        options = resolve_anchors(anchors, image_size)
        self.save_hyperparameters()
        self.hparams.pop("_instantiator", None)  # plain arguments, which need no parser to be loaded again
        # Plain types only: every checkpoint loads with torch.load(weights_only=True).
        self.hparams.update(
            {
                "detector": detector_config(self.hparams["detector"]),
                "anchors": asdict(options),
                "learning_rate": dict(learning_rate) if isinstance(learning_rate, dict) else float(learning_rate),
                "image_size": None if image_size is None else list(image_size),
            }
        )
        self._check_options()
        self.class_names = class_names or [f"class {index}" for index in range(num_classes)]
        self.detector: Detector = build_detector(self.hparams["detector"], num_classes, options, image_size)
        if not self.detector.supports_soft_assignment and distance != "iou":
            raise UserError(f"{distance}, but {type(self.detector).__name__} has no assignment", argument="distance")
        self.temperature = 0.0
        self.clustering_weight = 0.0
        self.distance: Distance = distance
        self.evaluation: Evaluation | None = None
        self.evaluation_details: EvaluationDetails | None = None
        self._is_started = False

    def _check_options(self) -> None:
        options, anchors, rates = self.hparams, self.hparams["anchors"], self._rates()
        valid_rates = 0 in rates and all(step >= 0 and 0 <= rate < math.inf for step, rate in rates.items())
        ranges = {
            "num_classes": (options["num_classes"], options["num_classes"] >= 1, "1 or more"),
            "momentum": (options["momentum"], 0 <= options["momentum"] < 1, "from 0 to below 1"),
            "weight_decay": (options["weight_decay"], options["weight_decay"] >= 0, "0 or more"),
            "score_threshold": (options["score_threshold"], 0 <= options["score_threshold"] < 1, "from 0 to below 1"),
            "learning_rate": (rates, valid_rates, "given from step 0 on, as in {0: 0.001}; steps and rates 0 or more"),
            "anchors.lr_mult": (anchors["lr_mult"], anchors["lr_mult"] >= 0, "0 or more"),
        }
        for name, (value, is_valid, valid) in ranges.items():
            if not is_valid:
                raise UserError(f"{value} must be {valid}", argument=name)

    @property
    def shapes(self) -> AnchorShapes:
        """The anchor shapes, which the detector owns."""
        return self.detector.shapes

    @property
    def data(self) -> Any:
        """The data module of the run; a `UserError` where the trainer was given loaders instead."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # Trainer attaches it at run time
        if data is None:
            raise UserError("Give the trainer a data module (datamodule=...) with train_box_shapes and ground_truth.")
        return data

    def forward(self, images: Tensor) -> list[Detections]:
        """The detections in each of (B, 3, H, W) RGB images in [0, 1], in pixels of these."""
        return self._find(images).detections

    def _find(self, images: Tensor) -> DetectorOutput:
        return self.detector.detect(images, self.hparams["score_threshold"])

    def setup(self, stage: str) -> None:
        """Prepares the network."""
        self.detector.setup()

    def check_start(self, data: Any) -> None:
        """Raises a `UserError` for weights or boxes of `data` that a run without a checkpoint cannot start from."""
        self._load_pretrained()
        if self.shapes.pending:
            self._boxes_of(data)

    def _boxes_of(self, data: Any) -> Tensor:
        """(N, 2) training boxes for k-means; a `UserError` if fewer of them are distinct than there are shapes."""
        boxes: Tensor = data.train_box_shapes()
        num, levels = len(self.shapes.log_wh), len(self.shapes.num_per_level)
        check_distinct(boxes, num, levels, self.detector.has_fixed_number)
        return boxes

    def _load_pretrained(self) -> None:
        if not self._is_started:
            self._is_started = True
            rank_zero_info(self.detector.load_pretrained())

    def _start(self) -> None:
        """Gives network and shapes their first values in place, unless a checkpoint has given them already."""
        self._load_pretrained()
        if not self.shapes.pending:
            return
        result: Tensor | str = ""
        if self.trainer.is_global_zero:
            try:
                result = kmeans_shapes(self._boxes_of(self.data), len(self.shapes.log_wh))
            except UserError as error:  # the other ranks wait for the broadcast below
                result = str(error)
        result = self.trainer.strategy.broadcast(result)
        if isinstance(result, str):
            raise UserError(result)
        self.shapes.set_initial(result.to(self.shapes.log_wh.device))

    def configure_callbacks(self) -> list[Callback]:
        """What every training needs: seeds by step, and an end to a loss that is not finite."""
        return [StepSeed(), NonFiniteLoss()]

    def on_fit_start(self) -> None:
        """Starts network and shapes, also where a subclass configures its own optimizers."""
        self.detector.check()
        self._start()
        if self.trainer.ckpt_path is None:
            start_averages(self.trainer, self)

    def on_train_start(self) -> None:
        """Puts this run's options into the optimizer, which has taken those of a checkpoint when it was restored.

        An optimizer with groups of its own, of a subclass, stays as it is.
        """
        optimizer, own = self.optimizers(use_pl_optimizer=False), self._parameter_groups()
        names = [group["name"] for group in own]
        if isinstance(optimizer, torch.optim.Optimizer) and [g.get("name") for g in optimizer.param_groups] == names:
            for group, options in zip(optimizer.param_groups, own, strict=True):
                group |= {"weight_decay": options["weight_decay"], "momentum": self.hparams["momentum"]}
                group["fused"] = optimizer.defaults.get("fused")
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, StepwiseLR):
            scheduler.apply()

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, Any]:
        """The loss of Eq. 11: the sum of the detector's terms."""
        step = StepOptions(
            temperature=torch.full((), self.temperature, device=self.device),
            distance=self.distance,
            clustering_weight=self.clustering_weight,
            num_boxes=self._global_num_boxes(batch.mask),
            world_size=self.trainer.world_size,
            images_seen=self._images_seen(len(batch) * self.trainer.world_size),
        )
        terms = self.detector.training_losses(batch, step)
        loss = torch.stack(list(terms.values())).sum()
        terms = {name: term.detach() for name, term in terms.items()}
        logged = {f"train/{name}": term for name, term in terms.items()} | {"train/loss": loss.detach()}
        self.log_dict(logged, batch_size=len(batch))
        return {"loss": loss, "terms": terms}

    def _images_seen(self, global_batch: int) -> int:
        return int(self.trainer.global_step * self.trainer.accumulate_grad_batches * global_batch)

    def _global_num_boxes(self, mask: Tensor) -> Tensor:
        """Eq. 11's N: the boxes of the global batch, at least 1."""
        num_boxes = mask.sum().float()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(num_boxes)
        return num_boxes.clamp_min(1)

    @property
    def lr(self) -> float:
        """The highest learning rate; setting it scales all of them (`LearningRateFinder` does)."""
        return max(self._rates().values())

    @lr.setter
    def lr(self, value: float) -> None:
        highest = self.lr
        self.hparams["learning_rate"] = {step: rate / highest * value for step, rate in self._rates().items()}

    def _rates(self) -> dict[int, float]:
        given: float | dict[int, float] = self.hparams["learning_rate"]
        return given if isinstance(given, dict) else {0: given}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD over the groups of `parameter_groups`."""
        self._start()  # before callbacks that train in `on_fit_start`, such as LearningRateFinder
        # One kernel for all weights; not in 16-mixed, whose loss scaling it would undo itself, after the clipping.
        fused = (self.device.type == "cuda" and self.trainer.precision != "16-mixed") or None
        optimizer = torch.optim.SGD(self._parameter_groups(), momentum=self.hparams["momentum"], fused=fused)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": StepwiseLR(optimizer, self._rates), "interval": "step"},
        }

    def _parameter_groups(self) -> list[dict[str, Any]]:
        decay, lr_mult = self.hparams["weight_decay"], self.hparams["anchors"]["lr_mult"]
        return parameter_groups(self.detector, self.shapes.log_wh, decay, lr_mult, self.detector.lr_factors)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the network's gradients as the trainer asks; those of the shapes are never touched."""
        if gradient_clip_val:
            clip_gradients(self.detector, self.shapes.log_wh, gradient_clip_val, gradient_clip_algorithm)

    def detect(self, batch: DetectionBatch) -> tuple[list[Detections], list[Tensor]]:
        """Detections by image, in px of the stored images, and any proposals, in px of the network input.

        Raises:
            NonFiniteOutputError: The network's weights are broken.
        """
        if len(batch) == 0:  # a rank without images of its own
            return [], []
        try:
            output = self._find(batch.images)
        except NonFiniteOutputError as error:
            raise NonFiniteOutputError(
                f"{error} (Images {batch.image_ids.tolist()}.) Its weights are broken: train from an earlier "
                "checkpoint, or with a lower learning_rate."
            ) from None
        found = zip(output.detections, scales_to_stored(batch), strict=True)
        detections = [Detections(d.boxes_xyxy * scale, d.scores, d.labels, d.anchors) for d, scale in found]
        return detections, output.proposals or []

    @property
    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == "fit"

    @property
    def _split(self) -> Literal["val", "test"]:
        return "test" if self.trainer.testing else "val"

    def on_validation_start(self) -> None:
        """Prepares the metrics of the split."""
        self._start()
        truth = self.data.ground_truth(self._split)
        self.evaluation = Evaluation(truth, self.class_names, self.detector.has_proposals, not self._is_fitting)

    def on_predict_start(self) -> None:
        """Starts network and shapes if no checkpoint did."""
        self._start()

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Hands the batch's detections, and the proposals of a first stage, to the metrics."""
        assert self.evaluation is not None
        self.evaluation.update(batch, *self.detect(batch))

    def on_validation_epoch_end(self) -> None:
        """Computes and logs the metrics once, over all ranks; loggers get those of the classes in `test` alone."""
        assert self.evaluation is not None
        if not self.trainer.sanity_checking:
            metrics = self.evaluation.compute()
            for name, value in metrics.items():
                # Equal on all ranks already; without sync_dist Lightning warns about each of them.
                is_logged = "/" not in name or self.trainer.testing
                self.log(f"{self._split}/{name}", value, sync_dist=True, logger=is_logged)
            self.evaluation_details = self.evaluation.details
        self.evaluation = None  # a split's detections are large

    on_test_start, test_step, on_test_epoch_end = on_validation_start, validation_step, on_validation_epoch_end

    def predict_step(self, batch: DetectionBatch, batch_idx: int) -> tuple[Tensor, list[Detections]]:
        """Image ids and detections, in pixels of the stored images."""
        return batch.image_ids, self.detect(batch)[0]

    @property
    def must_match(self) -> dict[str, Any]:
        """What a checkpoint must have been made with to fit, by the names of the arguments."""
        kind, num_classes = type(self.detector).__name__, self.hparams["num_classes"]
        own = {f"detector.{name}": value for name, value in self.detector.architecture.items()}
        return {"detector": kind, "num_classes": num_classes, "anchors.num": len(self.shapes.log_wh), **own}

    @property
    def anchor_frame(self) -> dict[str, Any]:
        """What the shapes are for, in plain types: `per_level`, `image_size` and `resize` as of `AnchorSet`."""
        resize = "native" if getattr(self.data, "native_crop", False) else "stretch"
        per_level = list(self.shapes.num_per_level)
        return {"per_level": per_level, "image_size": list(self.data.image_size), "resize": resize}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the weights do not say; a `NonFiniteLossError` where they are broken."""
        check_weights_finite(checkpoint["state_dict"], self._trainer)
        extra = checkpoint.setdefault(PROJECT_KEY, {})
        extra |= {"format": FORMAT, "must_match": self.must_match}
        if self._trainer is not None and (data := self.trainer.datamodule) is not None:  # type: ignore[attr-defined]
            # What `export` and `predict` must know.
            extra |= {"image_size": list(data.val_image_size), "images_seen": self._images_seen(data.batch_size)}
            extra["anchors"] = self.anchor_frame
            if (category_ids := getattr(data, "category_ids", None)) is not None:
                extra["category_ids"] = list(category_ids)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises a `UserError` for a checkpoint that does not fit."""
        check_checkpoint(checkpoint, self.must_match)
        if self._trainer is not None and self.trainer.state.fn == "fit":
            check_whole_step(checkpoint)
            check_averaging(checkpoint, self.trainer)
        self._is_started = True
