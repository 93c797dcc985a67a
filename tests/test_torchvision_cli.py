"""torchvision's detectors through the front door: every configuration, Table 7's rows, and the commands on a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from anchor_lightning import DetectionTask
from anchor_lightning.cli import main
from anchor_lightning.commands.configs import CONFIG_FOLDER
from anchor_lightning.detectors import FasterRCNN, RetinaNet
from tests.helpers.made_data import make_coco, make_voc, make_yolo
from tests.helpers.tiny_training import QUIET, SMALL_BATCHES

pytestmark = pytest.mark.usefixtures("elsewhere")

BASELINE = ["--config", "table7/baseline.yaml"]
TWO_STEPS = [
    *("--config", "logger/csv.yaml", "--config", "trainer/cpu.yaml", *QUIET, "--anchor_logger.animation", "false"),
    *("--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
]
TINY = [*SMALL_BATCHES, *TWO_STEPS]
ONE_STEP = [*TINY, "--trainer.max_steps", "1", "--trainer.val_check_interval", "1"]
SYNTHETIC = [
    *("fit", "--config", "synthetic.yaml", "--config", "detector/retinanet_small_fpn.yaml", *TINY),
    *("--data.num_train", "6", "--data.num_val", "2"),
]


# The rows on two years and on one differ in the data alone, and C4's second stage takes its time.
@pytest.mark.parametrize(
    ("row", "arm"),
    [
        ("voc07-c4.yaml", "learned"),
        ("voc07-c4.yaml", "baseline"),
        ("voc0712-fpn.yaml", "learned"),
        ("coco-fpn.yaml", "learned"),
    ],
)
def test_table_7(tmp_path: Path, row: str, arm: str) -> None:
    make = make_coco if row.startswith("coco") else make_voc
    more = BASELINE if arm == "baseline" else []
    size = ["--data.image_size", "64" if "fpn" in row else "32", "--data.root", str(make(tmp_path / "data", num=2))]
    cli = main(["fit", "--config", f"table7/{row}", *more, *ONE_STEP, *size])
    assert isinstance(cli.model.detector, FasterRCNN) and cli.model.detector.architecture["fpn"] == ("fpn" in row)
    shapes = cli.model.shapes
    assert len(shapes.wh) == 15 and shapes.log_wh.requires_grad == (arm == "learned")
    moved = (shapes.log_wh.detach() - shapes.initial_log_wh).abs().max()
    assert moved > 0 if arm == "learned" else moved == 0
    assert cli.model.temperature == 0, "no soft assignment in Table 7"
    assert cli.model.clustering_weight == pytest.approx(0 if arm == "baseline" else 1 - 1 / 1500)
    known = set((tmp_path / "runs" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(","))
    assert {"train/loss_clustering", "train/loss_rpn_box_reg", "val/map_50", "val/rpn_ar_50", "val/rpn_ar_100"} <= known
    assert {"val/rpn_ar_300", "val/rpn_ar_1000", "val/rpn_recall_iou50_50"} <= known


def test_table_7_is_the_papers_rows() -> None:
    read = {path.stem: yaml.safe_load(path.read_text()) for path in (CONFIG_FOLDER / "table7").glob("*.yaml")}
    assert read.pop("baseline") == {"model": {"anchors": {"learn": False}}, "clustering": {"steps": 0}}
    assert set(read) == {"voc07-c4", "voc0712-c4", "voc0712-fpn", "coco-fpn"}
    assert read["voc07-c4"]["data"]["init_args"]["years"] == [2007]
    assert "years" not in read["voc0712-c4"]["data"]["init_args"], "07+12 is the data module's default"
    for row in read.values():
        assert row["clustering"]["steps"] == 1500 and row["soft_assignment"]["steps"] == 0


@pytest.mark.parametrize(
    ("detector", "init"),
    [
        ("retinanet_r50_fpn", "init/kmeans.yaml"),
        *(("faster_rcnn_small_fpn", f"init/{init}.yaml") for init in ("identical", "uniform")),
    ],
)
def test_detector_overlays_and_initialisations(detector: str, init: str) -> None:
    args = ["fit", "--config", "synthetic.yaml", "--config", f"detector/{detector}.yaml", "--config", init, *ONE_STEP]
    cli = main([*args, "--data.num_train", "30", "--data.num_val", "2"])
    assert type(cli.model.detector) is (RetinaNet if "retinanet" in detector else FasterRCNN)
    start = cli.model.shapes.initial_wh
    if "kmeans" in init:
        areas = start.prod(1)
        assert (areas.diff() >= 0).all(), "smallest on the first level"
    elif "identical" in init:
        assert len(start.unique(dim=0)) == 15
        assert len((start / 4).round().unique(dim=0)) == 5, "one square a level"


def test_too_few_boxes_for_a_number_that_cannot_be_chosen(tmp_path: Path) -> None:
    """Four images of two boxes, and the 45 shapes of RetinaNet."""
    args = [*SYNTHETIC[:5], *ONE_STEP, "--data", str(make_yolo(tmp_path / "set")), "--config", "init/kmeans.yaml"]
    with pytest.raises(
        SystemExit, match=r"--model.anchors.init: 45 shapes, .* only 8 distinct .* from model or uniform$"
    ):
        main(args)


def test_ssd300_trains_at_320() -> None:
    config = ["--config", "synthetic.yaml", "--config", "detector/ssd300.yaml"]
    args = ["fit", *config, *TWO_STEPS, "--data.batch_size", "1", "--trainer.max_steps", "1"]
    cli = main([*args, "--data.num_train", "1", "--data.num_val", "1"])
    assert cli.datamodule.image_size == (320, 320) and cli.trainer.global_step == 1
    # 0.07 of the input is SSD300's first box.
    torch.testing.assert_close(cli.model.shapes.initial_wh[0], torch.tensor([22.4, 22.4]))


def test_a_small_detector_learns_and_its_checkpoint_serves_every_command(tmp_path: Path) -> None:
    """Shapes that start far from the boxes come nearer, and the loss falls."""
    fit = [*SYNTHETIC, "--config", "init/identical.yaml", "--trainer.val_check_interval", "4", "--trainer.max_steps"]
    main([*fit, "24"])
    rows = list(csv.DictReader((tmp_path / "runs" / "version_0" / "metrics.csv").open()))
    fits, losses = ([float(row[name]) for row in rows if row[name]] for name in ("anchors/mean_best_iou", "train/loss"))
    assert fits[-1] > fits[0] and sum(losses[-5:]) < sum(losses[:5])
    checkpoint = tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    torch.load(checkpoint, weights_only=True)
    assert main([*fit, "28", "--ckpt_path", "last"]).trainer.global_step == 28
    main(["validate", *SYNTHETIC[1:], "--ckpt_path", str(checkpoint)])
    task = DetectionTask.load_from_checkpoint(checkpoint)
    assert torch.equal(task.shapes.log_wh, task.detector.shapes.log_wh) and len(task.shapes.wh) == 45
    for shapes in (str(checkpoint), str(tmp_path / "runs" / "version_0")):
        main(["anchors", "export", "--shapes", shapes, "--to", "json", "--output", "shapes.json"])
        stated = json.loads(Path("shapes.json").read_text())
        assert stated["per_level"] == [9] * 5 and stated["image_size"] == [64, 64] and stated["resize"] == "stretch"
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "photos" / "a.png")
    main(["predict", "--ckpt_path", str(checkpoint), "--source", "photos", "--output", "out"])
    assert isinstance(json.loads((tmp_path / "out" / "predictions.json").read_text()), list)
    with pytest.raises(SystemExit, match="darknet runs YOLOv2 and YOLOv3, and the checkpoint holds a RetinaNet"):
        main(["export", "--ckpt_path", str(checkpoint)])


def test_soft_assignment_and_bounds(tmp_path: Path) -> None:
    args = ["--config", "voc.yaml", "--config", "detector/ssd_small.yaml", "--model.detector.bound_octaves", "0"]
    args += ["--soft_assignment.start", "2", "--soft_assignment.steps", "4", "--anchor_logger.every_n_steps", "1"]
    with pytest.warns(UserWarning, match=r"first 4 steps .* for SSD; soft_assignment.steps 0 turns it off"):
        task = main(["fit", *args, *TINY, "--data.root", str(make_voc(tmp_path / "data"))]).model
    rows = csv.DictReader((tmp_path / "runs" / "version_0" / "metrics.csv").open())
    assert [float(row["anchors/temperature"]) for row in rows if row["anchors/temperature"]] == [2.0, 1.5, 1.0]
    assert task.shapes.bound_octaves == 0 and task.shapes.temperature == 1.5
