"""The paper's §4: each row of its tables runs two real steps and a validation; its numbers are the shipped ones."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from anchor_lightning.anchors import AnchorShapes, initial_shapes, num_shapes
from anchor_lightning.cli import main
from anchor_lightning.detectors.yolo.postprocess import postprocess
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from anchor_lightning.structures import Predictions
from tests.helpers.made_data import make_brainwash, make_coco, make_voc
from tests.helpers.tiny_training import QUIET

pytestmark = pytest.mark.usefixtures("elsewhere")

BASELINE = "ablation/baseline.yaml"
ABLATION = [f"ablation/opt{name}.yaml" for name in ("", "-soft", "-soft-clust", "-soft-clust-bn")]
CONTROL = "ablation/baseline-bn.yaml"
Row = tuple[str, str, list[str], list[str]]
ROWS: list[Row] = [
    # Table 1: three initialisations at 416, k-means at 544 as well, baseline and learned.
    *(("table 1", "voc", [f"init/{init}.yaml"], []) for init in ("identical", "uniform", "kmeans-voc")),
    *(("table 1", "voc", [f"init/{init}.yaml", BASELINE], []) for init in ("identical", "uniform", "kmeans-voc")),
    ("table 1", "voc", ["init/kmeans-voc.yaml", "size/544.yaml"], []),
    ("table 1", "voc", ["init/kmeans-voc.yaml", "size/544.yaml", BASELINE], []),
    # Tables 2 and 3: the same trainings, measured on val and on test-dev.
    *(("tables 2, 3", "coco", [f"init/{init}.yaml"], []) for init in ("identical", "uniform", "kmeans-coco")),
    *(("tables 2, 3", "coco", [f"init/{init}.yaml", BASELINE], []) for init in ("uniform", "kmeans-coco")),
    # Table 5: the baseline with anchors from COCO, too.
    *(("table 5", "brainwash", [f"init/{init}.yaml"], []) for init in ("identical", "uniform", "kmeans")),
    *(("table 5", "brainwash", [f"init/{init}.yaml", BASELINE], []) for init in ("kmeans-coco", "uniform", "kmeans")),
    # Table 6: VOC from k-means, Brainwash from uniform; their baselines are those of Tables 1 and 5.
    *(("table 6", "voc", ["init/kmeans-voc.yaml", row], []) for row in ABLATION),
    *(("table 6", "brainwash", ["init/uniform.yaml", row], []) for row in ABLATION),
    # §4.3's text: the batch norm without the rest of the method.
    ("baseline + bn", "voc", ["init/kmeans-voc.yaml", CONTROL], []),
    # Figure 4: other numbers of shapes; published centres are five, so k-means is computed.
    *(("figure 4", "voc", ["init/kmeans.yaml"], ["--model.anchors.num", num]) for num in ("3", "9")),
    ("figure 4", "voc", ["init/kmeans.yaml", BASELINE], ["--model.anchors.num", "7"]),
]
SMALL = [
    *("--config", "logger/csv.yaml", "--config", "trainer/cpu.yaml", *QUIET, "--anchor_logger.animation", "false"),
    *("--model.detector.width", "0.05", "--data.batch_size", "2", "--data.image_size", "64"),
    *("--data.val_image_size", "64", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--model.score_threshold", "0.01", "--prediction_pictures.num_images", "0"),
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    makers = {"voc": make_voc, "coco": make_coco, "brainwash": make_brainwash}
    return {name: make(folder / name) for name, make in makers.items()}


@pytest.mark.parametrize(
    ("data", "overlays", "more"),
    [row[1:] for row in ROWS],
    ids=[f"{t}: {d} " + " + ".join(o + m[1:]) for t, d, o, m in ROWS],
)
def test_row(data: str, overlays: list[str], more: list[str], roots: dict[str, Path]) -> None:
    words = [word for overlay in overlays for word in ("--config", overlay)]
    cli = main(["fit", "--config", f"{data}.yaml", *words, *SMALL, *more, "--data.root", str(roots[data])])
    assert cli.trainer.global_step == 2
    assert "val/map_50" in cli.trainer.callback_metrics
    shapes, learned = cli.model.shapes, not {BASELINE, CONTROL} & set(overlays)
    assert len(shapes.wh) == (int(more[1]) if "--model.anchors.num" in more else 5)
    assert shapes.log_wh.requires_grad == learned
    if learned:
        assert not torch.equal(shapes.wh, shapes.initial_wh), "the shapes have moved"
    else:
        torch.testing.assert_close(shapes.wh, shapes.initial_wh)
    has_norm = "ablation" not in "".join(overlays) or overlays[-1].endswith("-bn.yaml")
    assert (cli.model.detector.network.head.norm is not None) == has_norm


@cache
def composed(*configs: str) -> dict[str, Any]:
    """What `fit` makes of configurations, by dotted names of the options; the data module's arguments under `data`."""
    printed = io.StringIO()
    with pytest.raises(SystemExit, match="0"), redirect_stdout(printed):
        main(["fit", *(word for config in configs for word in ("--config", config)), "--print_config"])
    flat: dict[str, Any] = {}

    def walk(prefix: str, part: dict[str, Any]) -> None:
        for name, value in part.items():
            if isinstance(value, dict) and name != "learning_rate":
                walk(f"{prefix}{name}.".replace(".init_args.", "."), value)
            else:
                flat[prefix + name] = value

    walk("", yaml.safe_load(printed.getvalue()))
    flat["model.learning_rate"] = {int(step): rate for step, rate in flat["model.learning_rate"].items()}
    return flat


# What §4.1 and §3.2 say for all sets, and the numbers that the paper leaves open (docs/paper.md has their origin).
EVERYWHERE = {
    "model.detector.class_path": "anchor_lightning.detectors.YOLOv2",
    "model.detector.width": 1.0,
    "model.anchors.learn": True,
    "model.anchors.lr_mult": 1.0,
    "model.detector.bn_without_shift": True,
    "model.detector.bn_scale_init": 1.0,
    "model.distance": "iou",
    "model.momentum": 0.9,
    "model.weight_decay": 5e-4,
    "model.detector.prior_images": 12800,
    "model.score_threshold": 0.005,
    "soft_assignment.start": 2.0,
    "soft_assignment.steps": 1500,
    "soft_assignment.schedule": "linear",
    "soft_assignment.distance": "l2",
    "clustering.start": 1.0,
    "clustering.steps": 1500,
    "data.batch_size": 64,
    "data.augment": True,
    "data.keep_difficult": False,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": None,
}
OF_A_SET = {
    "voc.yaml": {
        "data.class_path": "anchor_lightning.data.VOCDataModule",
        "data.years": [2007, 2012],
        "data.image_size": 416,
        "data.val_image_size": None,
        "trainer.max_steps": 30_000,
        "model.anchors.init": "yolov2-voc",
        "model.learning_rate": {0: 1e-4, 100: 1e-3, 15_000: 1e-4, 27_000: 1e-5},
    },
    "coco.yaml": {
        "data.class_path": "anchor_lightning.data.COCODataModule",
        "data.image_size": 544,
        "data.val_image_size": None,
        "trainer.max_steps": 100_000,
        "model.anchors.init": "yolov2-coco",
        "model.learning_rate": {0: 1e-4, 1000: 1e-3, 80_000: 1e-4, 90_000: 1e-5},
    },
    "brainwash.yaml": {
        "data.class_path": "anchor_lightning.data.BrainwashDataModule",
        "data.image_size": 320,
        "data.val_image_size": [480, 640],
        "trainer.max_steps": 10_000,
        "model.anchors.init": "uniform",
        "model.learning_rate": {0: 1e-4, 100: 1e-3, 5000: 1e-4, 9000: 1e-5},
    },
}


@pytest.mark.parametrize("config", OF_A_SET)
def test_numbers_of_a_configuration(config: str) -> None:
    expected = EVERYWHERE | OF_A_SET[config]
    found = composed(config)
    assert {key: found[key] for key in expected} == expected
    assert num_shapes(found["model.anchors.init"], found["model.anchors.num"]) == 5


NO_BN = {"model.detector.bn_without_shift": False}
NO_CLUSTERING = NO_BN | {"clustering.steps": 0}
NO_METHOD = NO_CLUSTERING | {"soft_assignment.steps": 0}
ON_4_GPUS = {"accelerator": "gpu", "devices": 4, "strategy": "ddp", "sync_batchnorm": False}
OVERLAYS: dict[str, dict[str, Any]] = {
    "ablation/baseline": NO_METHOD | {"model.anchors.learn": False},
    "ablation/baseline-bn": {"model.anchors.learn": False, "soft_assignment.steps": 0, "clustering.steps": 0},
    "ablation/opt": NO_METHOD,
    "ablation/opt-soft": NO_CLUSTERING,
    "ablation/opt-soft-clust": NO_BN,
    "ablation/opt-soft-clust-bn": {},
    "init/kmeans-voc": {"model.anchors.init": "yolov2-voc"},
    "init/kmeans-coco": {"model.anchors.init": "yolov2-coco"},
    **{f"init/{name}": {"model.anchors.init": name} for name in ("uniform", "identical", "kmeans")},
    "size/544": {"data.image_size": 544},
    "trainer/ddp": {f"trainer.{name}": value for name, value in ON_4_GPUS.items()},
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_changes_these_numbers_only(overlay: str) -> None:
    assert composed("voc.yaml", f"{overlay}.yaml") == composed("voc.yaml") | OVERLAYS[overlay]


def test_values_of_the_network_that_the_paper_leaves_open() -> None:
    network = YOLOv2Network(5, 20, width=0.25)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-6, 0.1)} and len(norms) == 18 + 4 + 1
    assert network.head.norm is not None and (network.head.norm.weight == 1).all()
    for last in (network.head.wh, network.head.rest):
        assert float(last.weight.std()) == pytest.approx(0.01, rel=0.05)
    assert network.head.rest.bias is not None and not network.head.rest.bias.any()


def test_the_pull_to_the_prior_ends_after_its_images(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of two batches of 2 images, and 9 of them: the first three steps begin with 0, 4 and 8 images seen."""
    seen = []

    def record(*args: Any) -> dict[str, torch.Tensor]:
        seen.append(float(args[4]))
        return region_loss(*args)

    monkeypatch.setattr("anchor_lightning.detectors.yolov2.detector.region_loss", record)
    longer = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "4", "--model.detector.prior_images", "9"]
    longer += ["--trainer.accumulate_grad_batches", "2"]
    main(["fit", "--config", "voc.yaml", *SMALL, *longer, "--data.root", str(roots["voc"])])
    assert seen == [1] * 6 + [0] * 2


def test_the_published_centres() -> None:
    """In cells of 32 pixels, from the `anchors` lines of YOLOv2's configurations for VOC and COCO."""
    published = {
        "yolov2-voc": [1.3221, 1.73145, 3.19275, 4.00944, 5.05587, 8.09892, 9.47112, 4.84053, 11.2364, 10.0071],
        "yolov2-coco": [0.57273, 0.677385, 1.87446, 2.06253, 3.33843, 5.47434, 7.88282, 3.52778, 9.77052, 9.16828],
    }
    for name, sides in published.items():
        torch.testing.assert_close(AnchorShapes(5, initial_shapes(name)).wh.flatten(), 32 * torch.tensor(sides))


@pytest.mark.parametrize(("iou", "left"), [(0.44, 2), (0.46, 1)])
def test_nms_at_an_iou_of_045(iou: float, left: int) -> None:
    """Two boxes of 100 x 100 whose centres lie d pixels apart in x: IoU (100 - d) / (100 + d)."""
    apart = 100 * (1 - iou) / (1 + iou)
    raw = torch.zeros(1, 1, 6, 4, 8)
    raw[0, 0, 4] = -20
    raw[0, 0, 4, 2, 3:5] = torch.tensor([2.0, 1.0])
    # The second centre lies in the next cell, at this share of it; the first in the middle of its own.
    raw[0, 0, 0, 2, 4] = torch.tensor((16 + apart - 32) / 32).logit()
    (found,) = postprocess([Predictions(raw, 32)], torch.tensor([[100.0, 100.0]]).log(), 0.005)
    assert len(found.scores) == left


def test_the_300_best_boxes_are_the_result() -> None:
    """400 boxes that do not touch each other: the result is those of the highest scores, in their order."""
    raw = torch.zeros(1, 1, 6, 20, 20)
    scores = torch.linspace(0.1, 0.9, 400)
    raw[0, 0, 4] = scores[torch.randperm(400, generator=torch.Generator().manual_seed(0))].logit().reshape(20, 20)
    (found,) = postprocess([Predictions(raw, 32)], torch.tensor([[20.0, 20.0]]).log(), 0.005)
    torch.testing.assert_close(found.scores, scores.flip(0)[:300])
