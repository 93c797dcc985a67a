"""`export` through the command line: what it writes is what was trained."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import pytest
import torch

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.cli import main
from anchor_lightning.commands.export import load_task
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.fitting.formats import read_shapes_file
from anchor_lightning.task import DetectionTask
from tests.helpers.checkpoints import save_task
from tests.helpers.made_data import make_voc
from tests.helpers.opencv_reference import needs_importer, same_boxes_in_opencv

pytestmark = pytest.mark.usefixtures("elsewhere")

TRAIN = [
    *("fit", "--config", "small.yaml", "--trainer.max_steps", "4", "--trainer.val_check_interval", "4"),
    *("--soft_assignment.steps", "2", "--trainer.log_every_n_steps", "1"),
]
MODEL = [
    *("--trainer.enable_progress_bar", "false", "--trainer.precision", "32-true", "--data.batch_size", "2"),
    *("--model.detector.objectness_init", "0.5"),  # after four steps there are boxes to compare
    *("--model.detector.width", "0.1", "--data.image_size", "64", "--data.val_image_size", "[64, 96]"),
]
SHAPES = ["--model.anchors.init", "identical", "--model.anchors.num", "3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A set of one's own, and the checkpoint of a run of four steps on it."""
    folder = tmp_path_factory.mktemp("trained")
    root = str(make_voc(folder / "set"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["anchor_lightning"])
        main([*TRAIN, *MODEL, *SHAPES, "--data.root", root, "--trainer.default_root_dir", str(folder)])
    return root, folder / "version_0" / "checkpoints" / "last.ckpt"


def test_three_files_in_the_run_folder_with_the_learned_anchors(
    trained: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained[1]
    files = main(["export", "--ckpt_path", str(checkpoint), "--format", "darknet"])
    folder = checkpoint.parents[1] / "export"
    assert files == [folder / f"yolov2.{suffix}" for suffix in ("cfg", "weights", "names")]
    task, details = load_task(checkpoint)
    assert details | {"image_size": [64, 96], "images_seen": 8} == details and int(task.detector.images_before) == 0
    torch.testing.assert_close(read_shapes_file(files[0]).wh, task.shapes.wh)
    text = files[0].read_text()
    assert "height=64\n" in text and "width=96\n" in text and "classes=20\n" in text and "num=3\n" in text
    assert files[2].read_text().split() == task.class_names
    printed = capsys.readouterr().out
    assert "in pixels" in printed and "grid units" in printed and str(files[1]) in printed


def test_names_are_utf8_whatever_the_encoding_of_the_system() -> None:
    detector, shapes = partial(YOLOv2, width=0.1), AnchorOptions([[9.0, 9.0]])
    task = DetectionTask(2, ["猫", "Spürhund"], detector=detector, anchors=shapes)
    save_task(task, Path("last.ckpt"), image_size=[64, 64], images_seen=0)
    command = [sys.executable, "-m", "anchor_lightning", "export", "--ckpt_path", "last.ckpt", "--output", "net"]
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=os.environ | ascii_alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("net.names").read_bytes().decode() == "猫\nSpürhund\n"


@needs_importer
@pytest.mark.parametrize("arm", [[], ["--config", "ablation/baseline.yaml"]], ids=["learned", "baseline"])
def test_opencv_finds_the_boxes_of_a_detector_trained_on_real_images(shared_data: Path, arm: list[str]) -> None:
    args = [*TRAIN, *arm, *MODEL, *SHAPES, "--data.root", str(shared_data / "BCCD"), "--data.image_size", "160"]
    args += ["--soft_assignment.steps", "0"] if arm else []
    cli = main([*args, "--data.val_image_size", "[160, 224]", "--trainer.limit_val_batches", "1"])
    cli.datamodule.setup("validate")
    images = next(iter(cli.datamodule.val_dataloader())).images.float() / 255
    assert images.shape == (2, 3, 160, 224) and images.std() > 0.05
    cfg, weights, _ = main(["export", "--ckpt_path", "runs/version_0/checkpoints/last.ckpt", "--output", "out/my.net"])
    assert cfg == Path("out/my.net.cfg")
    task, _ = load_task("runs/version_0/checkpoints/last.ckpt")
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    assert same_boxes_in_opencv(net, task.detector.network, images, task.shapes.wh) > 30


def test_there_and_back_again(trained: tuple[str, Path]) -> None:
    """The exported files as model.detector.weights and model.anchors.init: the same metrics, without the checkpoint."""
    root, checkpoint = trained
    cfg, weights, _ = main(["export", "--ckpt_path", str(checkpoint), "--output", "out.cfg"])
    common = ["validate", "--config", "small.yaml", "--data.root", root, *MODEL, "--model.score_threshold", "0.0001"]
    by_checkpoint = main([*common, *SHAPES, "--ckpt_path", str(checkpoint)])
    by_files = main([*common, "--model.detector.weights", str(weights), "--model.anchors.init", str(cfg)])
    ours, theirs = (
        {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
        for cli in (by_checkpoint, by_files)
    )
    assert "val/map_50" in ours and ours == pytest.approx(theirs, abs=1e-4, nan_ok=True)
    torch.testing.assert_close(by_files.model.shapes.wh, by_checkpoint.model.shapes.wh)
    # After four steps the metrics are 0: the networks themselves must be the same, and no fresh one.
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        raw, expected = (cli.model.detector.network.eval()(images).raw for cli in (by_files, by_checkpoint))
    assert expected.std() > 1e-3
    torch.testing.assert_close(raw, expected, atol=1e-5, rtol=1e-4)


def test_a_run_starts_from_a_backbone_and_goes_on_without_the_file(
    trained: tuple[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    root, checkpoint = trained
    convolutions = load_task(checkpoint)[0].detector.network.backbone.state_dict()
    floats = sum(value.numel() for name, value in convolutions.items() if "num_batches" not in name)
    _, backbone, _ = main(["export", "--ckpt_path", str(checkpoint), "--output", "out"])
    backbone.write_bytes(backbone.read_bytes()[: 20 + 4 * floats])
    args = [*TRAIN, *MODEL, *SHAPES, "--data.root", root, "--model.detector.backbone_weights", str(backbone)]
    args += ["--model.learning_rate", "{0: 0.0}"]
    started = main(args)
    assert f"The backbone starts from {backbone}, trained on 8 images" in caplog.text
    for name, value in started.model.detector.network.backbone.named_parameters():
        assert torch.equal(value, convolutions[name]), name
    backbone.unlink()
    caplog.clear()
    resumed = main([*args, "--trainer.max_steps", "6", "--ckpt_path", "last"])
    assert "starts from" not in caplog.text and resumed.trainer.global_step == 6


def test_images_seen_go_on_from_the_files(trained: tuple[str, Path]) -> None:
    """8 of the file, and 3 steps of 2 batches of 2."""
    root, checkpoint = trained
    _, weights, _ = main(["export", "--ckpt_path", str(checkpoint), "--output", "out"])
    args = [*TRAIN, *MODEL, "--data.root", root, "--model.detector.weights", str(weights)]
    args += ["--model.anchors.init", "[[160, 160], [160, 160], [160, 160]]", "--trainer.accumulate_grad_batches", "2"]
    main([*args, "--trainer.max_steps", "3"])
    again = Path("runs/version_0/checkpoints/last.ckpt")
    task, details = load_task(again)
    assert int(task.detector.images_before) == 8 and details["images_seen"] == 3 * 2 * 2
    _, exported, _ = main(["export", "--ckpt_path", str(again)])
    assert struct.unpack_from("<q", exported.read_bytes(), 12) == (8 + 3 * 2 * 2,)
    main([*args, "--trainer.max_steps", "4", "--ckpt_path", str(again)])
    assert load_task("runs/version_1/checkpoints/last.ckpt")[1]["images_seen"] == 4 * 2 * 2


def test_a_broken_network_is_no_detector_that_finds_nothing(trained: tuple[str, Path]) -> None:
    root, checkpoint = trained
    broken = torch.load(checkpoint, weights_only=True)
    for name, value in broken["state_dict"].items():
        if name.endswith("running_var"):
            value.fill_(-1)
    torch.save(broken, "broken.ckpt")
    with pytest.raises(SystemExit, match="not finite"):
        main(["validate", "--config", "small.yaml", "--data.root", root, *MODEL, *SHAPES, "--ckpt_path", "broken.ckpt"])


def test_grid_units_given_as_pixels_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="multiply them by 32"):
        DetectionTask(2, anchors=AnchorOptions(init=[[1.3221, 1.73145], [11.2364, 10.0071]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.detector.weights", "none"], "weights: its anchors are its own"),
        (["--model.detector.weights", "none", "--model.anchors.init", "[[1, 2]]"], "none: cannot be read"),
        (["--model.detector.backbone_weights", "none"], "none: cannot be read"),
        (["--model.detector.weights", "a", "--model.detector.backbone_weights", "b"], "leave backbone_weights out"),
        (["--model.anchors.init", "none.cfg"], "none.cfg: cannot be read"),
    ],
)
def test_what_cannot_be_started_from_is_named(trained: tuple[str, Path], options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*TRAIN, *MODEL, "--data.root", trained[0], *options])
