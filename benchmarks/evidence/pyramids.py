"""The evidence on detectors with several levels: do their shapes gain by learning, and does any class lose?

All arms of a detector differ in the shapes alone, but for `plain`. `stock` has the shapes that the detector comes
with, fixed; `learned` starts there and learns, `learned-old` by the rule in which all matched anchors count;
`kmeans` has fixed shapes from k-means on the training boxes and `kmeans-learned` learns from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from old_rule import use_old_rule
from sets import BACKBONE, WARM_UP_SHARE, arm_options
from sets import SETS as YOLOV2_SETS
from training import SIZES, Trained, classes_of, train_and_test

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.callbacks import ClusteringDecay, SoftAssignment
from anchor_lightning.metrics import ProposalRecall

CSV: Final = "pyramids.csv"
STRIDES: Final = (8, 16, 32)
SEEDS: Final = 5
# Inputs, steps and images a step as a run of two or three minutes on one core takes; two variants of VOC12's 2,740
# images are more than a run sees.
SETS: Final = {
    "bccd": replace(YOLOV2_SETS["bccd"], image_size=320, steps=600, strides=STRIDES),
    "cards": replace(YOLOV2_SETS["cards"], steps=600, strides=STRIDES),
    "aerial_cars": replace(YOLOV2_SETS["aerial_cars"], steps=400, strides=STRIDES),
    "voc12": replace(
        YOLOV2_SETS["voc12"], batch_size=8, steps=800, precision="bf16-mixed", strides=STRIDES, variants=2
    ),
}
PYRAMID: Final = {"pyramid_channels": 64}
LIMITS: Final = (50, 100, 300, 1000)
RECALLS: Final = tuple(f"{name}_{limit}" for name in ("ar", "recall_iou50") for limit in LIMITS)


@dataclass(frozen=True)
class Kind:
    """A detector of the grid.

    Args:
        class_path: Of the detector.
        options: Of its constructor.
        stock: `init` of the shapes that it comes with.
        arms: What is trained, the most important first.
        recipe: As of `train_and_test`, with `lr_mult`.
    """

    class_path: str
    options: dict[str, Any]
    stock: str
    arms: tuple[str, ...]
    recipe: dict[str, Any] = field(default_factory=dict)


# Chosen once for each detector, on its arm `stock`, on BCCD's validation split.
RECIPE: Final = {"learning_rate": 1e-2, "warm_up": 50, "drop_at": 0.75, "clip": 10.0, "lr_mult": 1.0}
METHOD: Final = arm_options("opt-soft-clust-bn")
MATCHING_ARMS: Final = ("stock", "learned", "learned-old", "kmeans", "kmeans-learned")
DETECTORS: Final = {
    "retinanet": Kind("RetinaNet", PYRAMID, "model", MATCHING_ARMS, RECIPE),
    "faster_rcnn": Kind("variants.FasterRCNNFromStride8", PYRAMID, "model", MATCHING_ARMS, RECIPE),
    # `plain` is darknet's: no norm on the offsets and no soft assignment, which the other arms have.
    "yolov3": Kind(
        "YOLOv3",
        {"width": 0.25, "objectness_init": 0.01},
        "yolov3-coco",
        ("stock", "learned", "kmeans", "kmeans-learned", "plain"),
        RECIPE,
    ),
}


class Run(NamedTuple):
    """One training."""

    detector: str
    set: str
    arm: str
    seed: int


KEY: Final = Run._fields
COLUMNS: Final = (
    *KEY,
    *("steps", "map_50", "map_50_frequent", "map", *SIZES, *RECALLS),
    *("bpr", "mean_best_iou", "initial_shapes", "shapes", "seconds", "commit"),
    "by_class",  # AP@.5, as VOC computes it, of the classes with 50 boxes; of all with boxes where there is none
)


class OldRule(Callback):
    """Has the shapes learn by the old rule."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces the rule."""
        task: Any = pl_module
        use_old_rule(task.detector.model)


def grid() -> list[Run]:
    """All runs, what is claimed first, seed after seed."""
    kinds = DETECTORS.items()
    depth = max(len(kind.arms) for _, kind in kinds)
    return [
        Run(name, set_name, kind.arms[place], seed)
        for first, last in ((0, 2), (2, depth))
        for seed in range(SEEDS)
        for set_name in SETS
        for name, kind in kinds
        for place in range(first, min(last, len(kind.arms)))
    ]


def train(run: Run, data: Path, weights: str, features: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Trains and tests; a row of the CSV but for the commit."""
    kind = DETECTORS[run.detector]
    recipe = kind.recipe | overrides
    options = {"backbone": BACKBONE, "backbone_weights": weights, "freeze_backbone": "all"} | kind.options
    is_yolo, is_plain = run.detector == "yolov3", run.arm == "plain"
    if is_yolo:
        options["bn_without_shift"] = not is_plain
    anchors = AnchorOptions(
        init="kmeans" if run.arm.startswith("kmeans") else kind.stock,
        learn="learned" in run.arm,
        lr_mult=recipe["lr_mult"],
    )
    soft = WARM_UP_SHARE if is_yolo and not is_plain else 0
    callbacks: list[Callback] = [
        SoftAssignment(**METHOD["soft_assignment"] | {"steps": soft}),
        ClusteringDecay(**METHOD["clustering"] | {"steps": WARM_UP_SHARE}),
    ]
    if run.arm == "learned-old":
        callbacks.append(OldRule())
    detector = {"class_path": kind.class_path, "init_args": options}
    trained = train_and_test(SETS[run.set], data, run.seed, detector, anchors, recipe, callbacks, features)
    frequent, present = classes_of(trained.module)
    by_class = trained.by_class(frequent or present)
    own = {"by_class": "; ".join(f"{name} {value:.4f}" for name, value in by_class.items())}
    return run._asdict() | trained.columns() | recalls(trained) | own


def recalls(trained: Trained) -> dict[str, float]:
    """The recall of the first stage's proposals; of a detector with one stage that of its detections, 300 at most."""
    if trained.task.detector.has_proposals:
        return {name: trained.metrics[f"test/rpn_{name}"] for name in RECALLS}
    metric = ProposalRecall(LIMITS)
    for truth in trained.module.ground_truth("test"):
        found = trained.detections[truth.image_id]
        metric.update(
            [{"boxes": found.boxes_xyxy, "scores": found.scores}],
            [
                {
                    "image_id": truth.image_id,
                    "boxes": truth.boxes_xyxy,
                    "labels": truth.labels,
                    "difficult": truth.ignore,
                    "area": truth.area,
                }
            ],
        )
    return {name: float(value) for name, value in metric.compute().items()}
