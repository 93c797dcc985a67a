"""What is refused before work is done or lost: options out of range, checkpoints that do not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

MUST_MATCH: Final = ("detector", "num_classes", "width", "bn_without_shift")
"""Options that a checkpoint's weights fit only if they are equal."""
MOST_ANCHORS: Final = 1000
LARGEST_GRID_UNIT: Final = 14
"""No published YOLOv2 anchor is wider: 13 units are the whole image at 416 pixels."""
FRESH_SHAPES: Final = ("kmeans", "identical", "uniform")
"""Initialisations that no trained detector has had."""
YOLOV2: Final = "yolov2"
OPTIONS_OF_YOLOV2: Final = {
    "width": 1.0,
    "bn_scale_init": 1.0,
    "distance": "iou",
    "weights": None,
    "backbone_weights": None,
    "prior_images": 12800,
    "compile": False,
}
"""Options that the other detectors do not have -> their default. (`bn_without_shift` is there in every baseline.)"""


def check_options(options: Mapping[str, Any], detectors: Sequence[str]) -> None:
    """Refuses options out of their range, or of another detector, before anything is built from them.

    Args:
        options: The task's hyper-parameters.
        detectors: What `model.detector` may be.

    Raises:
        ValueError: Naming the option, its value and its range.
    """
    rates, num = options["learning_rate"], options["anchors"]["num"]
    ranges = {
        "detector": (options["detector"] in detectors, f"one of {', '.join(detectors)}"),
        "num_classes": (options["num_classes"] >= 1, "1 or more"),
        "width": (options["width"] > 0, "more than 0"),
        "momentum": (0 <= options["momentum"] < 1, "from 0 to below 1"),
        "weight_decay": (options["weight_decay"] >= 0, "0 or more"),
        "score_threshold": (0 <= options["score_threshold"] < 1, "from 0 to below 1"),
        "bn_scale_init": (options["bn_scale_init"] >= 0.01, "0.01 or more"),
        "prior_images": (options["prior_images"] >= 0, "0 or more"),
        "anchors.lr_mult": (options["anchors"]["lr_mult"] >= 0, "0 or more"),
        "learning_rate": (
            0 in rates and all(step >= 0 and 0 <= rate < math.inf for step, rate in rates.items()),
            "given from step 0 on, as in {0: 0.001}; steps and rates 0 or more",
        ),
        "anchors.num": (num is None or 1 <= num <= MOST_ANCHORS, f"from 1 to {MOST_ANCHORS}"),
    }
    values = {**options, "anchors.lr_mult": options["anchors"]["lr_mult"], "anchors.num": num}
    for name, (holds, valid) in ranges.items():
        if not holds:
            raise ValueError(f"model.{name}: {values[name]} must be {valid}")
    if options["detector"] == YOLOV2:
        if options["weights_backbone"]:
            raise ValueError("model.weights_backbone is for torchvision's detectors; yolov2 has model.backbone_weights")
    elif given := [name for name, default in OPTIONS_OF_YOLOV2.items() if options[name] != default]:
        raise ValueError(f"model.{given[0]} is an option of yolov2, not of {options['detector']}; leave it out")
    if options["weights"] and options["backbone_weights"]:
        raise ValueError("model.weights is a whole YOLOv2 and brings its backbone; leave model.backbone_weights out")
    if options["weights"] and options["anchors"]["init"] in FRESH_SHAPES:
        raise ValueError(
            f"model.weights: its anchors are its own, not those of model.anchors.init {options['anchors']['init']}; "
            "give the path of its .cfg there, or yolov2-voc or yolov2-coco, or a list in pixels"
        )


def warn_of_grid_units(init: str | Sequence[Sequence[float]]) -> None:
    """Warns of a list of shapes whose sides all look like grid units of a darknet .cfg, where pixels are meant."""
    if not isinstance(init, str) and max((side for shape in init for side in shape), default=0) < LARGEST_GRID_UNIT:
        rank_zero_warn(
            f"model.anchors.init: no side is above {LARGEST_GRID_UNIT} pixels. If these are grid units of a YOLOv2 "
            ".cfg, multiply them by 32, or give the path of the .cfg."
        )


def check_checkpoint(checkpoint: Mapping[str, Any], options: Mapping[str, Any], num_anchors: int) -> None:
    """Refuses a checkpoint that a task cannot continue, naming both values.

    Args:
        checkpoint: As Lightning loads it.
        options: The task's hyper-parameters.
        num_anchors: The task's number of shapes.

    Raises:
        ValueError: It is not of this project, or has another number of classes or shapes, another width or head.
    """
    theirs = checkpoint.get("hyper_parameters", {})
    shapes = checkpoint["state_dict"].get("shapes.log_wh")
    if shapes is None:
        raise ValueError("The checkpoint holds no anchor shapes (shapes.log_wh): it is not one of this project.")
    pairs = {f"model.{name}": (theirs.get(name), options[name]) for name in MUST_MATCH}
    pairs["model.anchors.num"] = (len(shapes), num_anchors)
    # It freezes norms and stages, which the weights do not show.
    pairs["model.weights_backbone"] = (bool(theirs.get("weights_backbone")), bool(options["weights_backbone"]))
    if options["detector"].startswith("ssd"):
        pairs["data.image_size"] = (theirs.get("image_size"), options["image_size"])
    for name, (saved, ours) in pairs.items():
        if saved != ours:
            raise ValueError(
                f"{name}: the checkpoint was made with {saved}, this run has {ours}; give the configuration that "
                "the checkpoint was made with (config.yaml in its run folder), or another one."
            )
    if theirs.get("class_names") not in (None, options["class_names"]):
        rank_zero_warn(f"The checkpoint's classes are {theirs['class_names']}, this run's {options['class_names']}.")


def check_weights(path: str | Path, checkpoint: Mapping[str, Any], own: Mapping[str, Any], resume: bool) -> None:
    """Refuses a checkpoint whose weights a network cannot take, or that a training cannot go on from.

    Args:
        path: The file, for the messages.
        checkpoint: As `read_checkpoint` returns it.
        own: The network's state dict.
        resume: Whether a training is to go on from it: with the optimizer's state and the place in the loops.

    Raises:
        ValueError: A weight is missing, of another shape or not finite; or what a resumed training needs is missing.
    """
    theirs = checkpoint["state_dict"]
    own = {name: value for name, value in own.items() if isinstance(value, Tensor)}  # a module may keep a dict there
    wrong = [name for name, value in own.items() if getattr(theirs.get(name), "shape", None) != value.shape]
    if wrong:
        raise ValueError(
            f"--ckpt_path: {path}: {len(wrong)} of the network's {len(own)} weights are missing in it or of another "
            f"shape, {wrong[0]} for one; it is damaged, or of another version of this project."
        )
    if wrong := [name for name in own if not theirs[name].isfinite().all()]:
        raise ValueError(
            f"--ckpt_path: {path}: holds numbers that are not finite, in {wrong[0]} for one. Take another."
        )
    if not resume:
        return
    if "optimizer_states" not in checkpoint:
        raise ValueError(f"--ckpt_path: {path} holds weights only; a training cannot go on from it")
    for part in ("optimizer_states", "loops", "pytorch-lightning_version"):
        if not checkpoint.get(part):
            raise ValueError(f"--ckpt_path: {path} lacks {part!r}; a training cannot go on from it")
