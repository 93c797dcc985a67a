"""The evidence on detectors with several levels: do their shapes gain by learning, and does any class lose?

The arms of a detector differ in what `ARMS` says, in all else they are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from old_rule import use_old_rule
from own_rule import use_own_rule
from sets import BACKBONE, WARM_UP_SHARE, arm_options
from sets import SETS as YOLOV2_SETS
from training import SIZES, Trained, classes_of, train_and_test

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.callbacks import ClusteringDecay, SoftAssignment
from anchor_lightning.metrics import ProposalRecall

CSV: Final = "pyramids.csv"
STRIDES: Final = (8, 16, 32)
SEEDS: Final = 5
# Inputs and images a step are such that a run takes two or three minutes on one core; two variants of VOC12's images
# are more than a run sees. The steps are the detector's.
SETS: Final = {
    "bccd": replace(YOLOV2_SETS["bccd"], image_size=320, strides=STRIDES),
    "cards": replace(YOLOV2_SETS["cards"], strides=STRIDES),
    "aerial_cars": replace(YOLOV2_SETS["aerial_cars"], batch_size=4, strides=STRIDES),
    "voc12": replace(YOLOV2_SETS["voc12"], batch_size=8, precision="bf16-mixed", strides=STRIDES, variants=2),
}
PYRAMID: Final = {"pyramid_channels": 64}
LIMITS: Final = (50, 100, 300, 1000)
RECALLS: Final = tuple(f"{name}_{limit}" for name in ("ar", "recall_iou50") for limit in LIMITS)


@dataclass(frozen=True)
class Arm:
    """What is done with the shapes.

    Args:
        learn: Whether they learn.
        from_kmeans: Whether they start from k-means on the training boxes, not where the detector comes with them.
        rule: One of `RULES` in the place of the package's.
        soft: Whether the assignment is soft in the warm-up; None for the detector's own choice.
        options: Of the detector besides its own.
    """

    learn: bool = True
    from_kmeans: bool = False
    rule: str | None = None
    soft: bool | None = None
    options: dict[str, Any] = field(default_factory=dict)


RULES: Final = {
    "old": use_old_rule,
    "own": partial(use_own_rule, squared=True),
    "own-l1": partial(use_own_rule, squared=False),
}
OF_BCCD: Final = ("learned-own", "learned-own-l1")  # arms of no other set
ARMS: Final = {
    "stock": Arm(learn=False),
    "learned": Arm(),
    "learned-old": Arm(rule="old"),
    "kmeans": Arm(learn=False, from_kmeans=True),
    "kmeans-learned": Arm(from_kmeans=True),
    "learned-soft": Arm(soft=True),
    "learned-bounded": Arm(options={"bound_octaves": 0.5}),
    "learned-shared": Arm(options={"share_levels": True}),
    "learned-own": Arm(rule="own"),
    "learned-own-l1": Arm(rule="own-l1"),
    # darknet's YOLOv3: no norm on the offsets and no soft assignment, which the other arms of YOLOv3 have.
    "plain": Arm(learn=False, soft=False, options={"bn_without_shift": False}),
}


@dataclass(frozen=True)
class Kind:
    """A detector of the grid.

    Args:
        class_path: Of the detector.
        options: Of its constructor.
        stock: `init` of the shapes that it comes with.
        soft: Whether its assignment is soft in the warm-up.
        arms: What is trained.
        steps: Optimizer steps of a run.
        learning_rate: After the warm-up; tried on the arm `stock`, on BCCD's validation split.
        lr_mult: Factor on it for the shapes.
    """

    class_path: str
    options: dict[str, Any]
    stock: str
    soft: bool
    arms: tuple[str, ...]
    steps: int
    learning_rate: float
    lr_mult: float = 1.0


RECIPE: Final = {"warm_up": 50, "drop_at": 0.75, "clip": 10.0}
METHOD: Final = arm_options("opt-soft-clust-bn")
MATCHING_ARMS: Final = tuple(name for name in ARMS if name != "plain")
YOLO_ARMS: Final = ("stock", "learned", "kmeans", "kmeans-learned", "plain")
DETECTORS: Final = {
    "retinanet": Kind("RetinaNet", PYRAMID, "model", False, MATCHING_ARMS, 400, 1e-2),
    "faster_rcnn": Kind("variants.FasterRCNNFromStride8", PYRAMID, "model", False, MATCHING_ARMS, 500, 1e-2),
    # At the network's rate YOLOv3's shapes are thrown about in the first steps (docs/results.md, small-pretrained).
    "yolov3": Kind("YOLOv3", {"width": 0.25, "objectness_init": 0.01}, "yolov3-coco", True, YOLO_ARMS, 800, 1e-2, 0.1),
}
PHASES: Final = (("stock", "learned"), ("learned-old", "kmeans", "kmeans-learned"), tuple(ARMS))  # in this order


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


class OtherRule(Callback):
    """Has the shapes learn by one of `RULES`."""

    def __init__(self, name: str) -> None:
        self._use = RULES[name]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces the rule."""
        task: Any = pl_module
        self._use(task.detector.model)


def grid() -> list[Run]:
    """All runs, what is claimed first, seed after seed."""
    runs = [
        Run(name, set_name, arm, seed)
        for phase in PHASES
        for seed in range(SEEDS)
        for set_name in SETS
        for name, kind in DETECTORS.items()
        for arm in phase
        if arm in kind.arms and (set_name == "bccd" or arm not in OF_BCCD)
    ]
    return list(dict.fromkeys(runs))


def train(run: Run, data: Path, weights: str, features: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Trains and tests; a row of the CSV but for the commit."""
    kind, arm = DETECTORS[run.detector], ARMS[run.arm]
    recipe = RECIPE | {"steps": kind.steps, "learning_rate": kind.learning_rate, "lr_mult": kind.lr_mult} | overrides
    backbone = {"backbone": BACKBONE, "backbone_weights": weights, "freeze_backbone": "all"}
    options = backbone | kind.options | arm.options
    start = "kmeans" if arm.from_kmeans else kind.stock
    anchors = AnchorOptions(init=start, learn=arm.learn, lr_mult=recipe["lr_mult"])
    soft = kind.soft if arm.soft is None else arm.soft
    callbacks: list[Callback] = [
        SoftAssignment(**METHOD["soft_assignment"] | {"steps": WARM_UP_SHARE if soft else 0}),
        ClusteringDecay(**METHOD["clustering"] | {"steps": WARM_UP_SHARE}),
    ]
    if arm.rule is not None:
        callbacks.append(OtherRule(arm.rule))
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
