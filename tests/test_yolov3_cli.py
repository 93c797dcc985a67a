"""YOLOv3 through the front door: trained, evaluated, exported to ONNX and darknet, and read again."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from anchor_lightning.cli import main
from anchor_lightning.commands.export import load_task
from anchor_lightning.detectors import YOLOv3
from anchor_lightning.detectors.backbones import DarkNet53
from anchor_lightning.fitting.formats import read_shapes_file
from tests.helpers.made_data import make_yolo
from tests.helpers.tiny_training import QUIET

pytestmark = pytest.mark.usefixtures("elsewhere")

TINY = [
    *("--config", "logger/csv.yaml", "--config", "trainer/cpu.yaml", *QUIET, "--anchor_logger.animation", "false"),
    *("--data.batch_size", "2", "--data.image_size", "64", "--trainer.max_steps", "2", "--trainer.precision", "32"),
    *("--trainer.val_check_interval", "2", "--model.detector.width", "0.1", "--prediction_pictures.num_images", "0"),
]
FIT = ["fit", "--config", "small.yaml", "--config", "detector/yolov3_small.yaml", *TINY]
SHAPES = [[[8, 10], [14, 9]], [[20, 24], [30, 20], [26, 40], [12, 12]], [[50, 40]]]  # the last of stride 16 is small
LEVELS = ["--model.anchors.init", json.dumps(SHAPES)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A set of one's own, and the checkpoint of a run on it, with other numbers of shapes on the levels."""
    folder = tmp_path_factory.mktemp("trained")
    root, runs = str(make_yolo(folder / "set")), folder / "runs"
    args = ["--data", "YOLODataModule", "--data.root", root, *LEVELS, "--trainer.default_root_dir", str(runs)]
    cli = main([*FIT, *args, "--soft_assignment.steps", "4", "--soft_assignment.start", "2", "--clustering.steps", "4"])
    assert isinstance(cli.model.detector, YOLOv3) and cli.model.detector.backbone == "darknet53"
    return root, runs / "version_0" / "checkpoints" / "last.ckpt"


def test_a_run_moves_all_shapes_and_its_metrics_come_back(trained: tuple[str, Path]) -> None:
    _, checkpoint = trained
    task, _ = load_task(checkpoint)
    assert task.shapes.num_per_level == [2, 4, 1]
    assert (task.shapes.wh != task.shapes.initial_wh).all(), "the soft assignment is over all levels"
    with (checkpoint.parents[1] / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged: dict[str, list[float]] = {
        key: [float(row[key]) for row in rows if row.get(key)] for key in ("anchors/temperature", "anchors/lambda")
    }
    # T falls geometrically from 2 in four steps, λ linearly from 1, and the run ends after two.
    assert logged["anchors/temperature"][0] == 2 and 0 < logged["anchors/temperature"][-1] < 1
    assert logged["anchors/lambda"][0] == 1 and logged["anchors/lambda"][-1] == 0.5
    args = ["--config", str(checkpoint.parents[1] / "config.yaml"), "--ckpt_path", str(checkpoint)]
    metrics = main(["validate", *args]).trainer.callback_metrics
    (within_fit,) = (row for row in rows if row.get("val/map"))
    common = metrics.keys() & within_fit.keys()
    assert {"val/map", "val/map_50", "val/mar_100"} <= common
    for name in common:
        assert float(metrics[name]) == pytest.approx(float(within_fit[name]), nan_ok=True), name


def test_the_commands_that_take_a_run(trained: tuple[str, Path], tmp_path: Path) -> None:
    _, checkpoint = trained
    Path("photos").mkdir()
    Image.new("RGB", (80, 60)).save("photos/a.png")
    main(["predict", "--ckpt_path", str(checkpoint), "--source", "photos", "--output", "out", "--show_anchors"])
    assert isinstance(json.loads(Path("out/predictions.json").read_text()), list)
    text = main(["anchors", "export", "--shapes", str(checkpoint), "--to", "darknet"])
    assert [line for line in text.splitlines() if line.startswith("mask")] == ["mask=6", "mask=2,3,4,5", "mask=0,1"]
    for given in (str(checkpoint), str(checkpoint.parents[1])):
        main(["anchors", "export", "--shapes", given, "--to", "json", "--output", "shapes.json"])
        assert read_shapes_file("shapes.json").per_level == (2, 4, 1)


def test_there_and_back_again_through_darknets_files(trained: tuple[str, Path]) -> None:
    """`.weights` and `.cfg` give the run's network and shapes back, on their levels."""
    root, checkpoint = trained
    cfg, weights, names = main(["export", "--ckpt_path", str(checkpoint), "--output", "out"])
    assert len(names.read_text().splitlines()) == 2
    assert struct.unpack_from("<q", weights.read_bytes(), 12) == (4,), "two steps of two images"
    args = ["validate", *FIT[1:], "--data", "YOLODataModule", "--data.root", root]
    args += ["--model.detector.weights", str(weights), "--model.anchors.init", str(cfg)]
    ours, (expected, _) = main(args).model, load_task(checkpoint)
    assert ours.shapes.num_per_level == [2, 4, 1]
    torch.testing.assert_close(ours.shapes.wh, expected.shapes.wh, rtol=1e-6, atol=0)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        pairs = zip(*(task.detector.network.eval()(images) for task in (ours, expected)), strict=True)
    for level, wanted in pairs:
        torch.testing.assert_close(level.raw, wanted.raw, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model.anchors.init", "kmeans"], "num_per_level|anchors.num"),
        (["--model.anchors.init", json.dumps([SHAPES[1], SHAPES[0], SHAPES[2]])], "num_per_level"),
        (["--model.detector.width", "0.2"], "--model.detector.width"),
        (
            ["--model.detector.backbone", "darknet19"],
            "--model.detector.backbone: darknet19 has no features at stride 8",
        ),
        (["--model.anchors.init", "yolov2-voc"], "--model.anchors.init: 5 shapes do not divide equally"),
    ],
)
def test_what_does_not_fit_a_run_is_one_message(trained: tuple[str, Path], change: list[str], message: str) -> None:
    root, checkpoint = trained
    with pytest.raises(SystemExit, match=message):
        main([*FIT, "--data", "YOLODataModule", "--data.root", root, *LEVELS, *change, "--ckpt_path", str(checkpoint)])


ONE_STEP = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0", "--data.num_train", "6"]


def test_too_few_boxes_ask_for_a_number_that_divides(tmp_path: Path) -> None:
    """Four images of two boxes: nine shapes are too many, and eight do not divide among three levels."""
    with pytest.raises(SystemExit, match=r"9 shapes, but .* only 8 distinct .* ask for at most 6"):
        main([*FIT, "--data", str(make_yolo(tmp_path / "set"))])


@pytest.mark.parametrize("config", ["yolov3", "yolov3_small"])
def test_shipped_configurations_and_frozen_shapes(config: str) -> None:
    args = ["fit", "--config", "synthetic.yaml", "--config", f"detector/{config}.yaml", *TINY, *ONE_STEP]
    learn = config == "yolov3"
    model = main([*args, "--data.num_train", "20", "--model.anchors.learn", str(learn).lower()]).model
    shapes = model.shapes
    assert len(shapes.wh) == 9 and (shapes.initial_wh.prod(1).diff() >= 0).all(), "the smallest at stride 8"
    assert torch.equal(shapes.wh, shapes.initial_wh) != learn and (shapes.log_wh.grad is not None) == learn


def test_a_backbone_of_darknet_and_its_options(tmp_path: Path) -> None:
    """The file's numbers are in the frozen stages as they were; the last stage, with a low rate, moves."""
    backbone = DarkNet53(0.1)
    state = {name: value for name, value in backbone.state_dict().items() if value.is_floating_point()}
    weights = torch.rand(sum(value.numel() for value in state.values())) * 0.1
    Path("d.conv.74").write_bytes(struct.pack("<iiiq", 0, 2, 0, 5) + weights.numpy().tobytes())
    option = "--model.detector"
    args = ["fit", "--config", "synthetic.yaml", "--config", "detector/yolov3_small.yaml", *TINY, *ONE_STEP]
    args += [f"{option}.backbone_weights", "d.conv.74", f"{option}.freeze_backbone", "5", f"{option}.freeze_norms"]
    model = main([*args, "true", f"{option}.backbone_lr_mult", "0.5", "--model.anchors.init", "yolov3-coco"]).model
    found = model.detector.network.backbone
    torch.testing.assert_close(found.stem[1].bias, weights[:8], rtol=0, atol=0)
    trained = {name for name, p in found.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("levels.4.") and name.endswith("0.weight") for name in trained)
    groups: dict[str, Any] = {group["name"]: group for group in model.optimizers().param_groups}
    assert groups["backbone"]["lr"] == pytest.approx(0.5 * groups["network"]["lr"])
    assert len(groups["backbone"]["params"]) >= len(trained)


def test_a_backbone_of_timm() -> None:
    pytest.importorskip("timm")
    args = ["fit", "--config", "synthetic.yaml", "--config", "detector/yolov3_small.yaml", *TINY, *ONE_STEP]
    args += ["--model.detector.backbone", "mobilenetv3_small_050", "--model.detector.freeze_backbone", "2"]
    model = main(args).model
    levels = model.detector.network.levels(torch.rand(1, 3, 64, 96))
    assert [tuple(level.raw.shape[-2:]) for level in levels] == [(8, 12), (4, 6), (2, 3)]
    checkpoint = "runs/version_0/checkpoints/last.ckpt"
    with pytest.raises(SystemExit, match="cannot hold the backbone mobilenetv3_small_050"):
        main(["export", "--ckpt_path", checkpoint])
