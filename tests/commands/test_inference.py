"""In which precision and with which engine `predict` runs a network."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.commands.inference import cast_kernels
from anchor_lightning.detectors import RetinaNet, YOLOv2, YOLOv3
from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.task import DetectionTask
from tests.helpers.checkpoints import save_task
from tests.helpers.made_data import draw
from tests.helpers.predictions import make_checkpoint, make_images, predict

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("detector", [YOLOv2, YOLOv3])
@pytest.mark.parametrize("args", [[], ["--engine", "onnxruntime"]], ids=["many images", "asked for"])
def test_in_onnxruntime(
    detector: type[YOLO],
    args: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("anchor_lightning.commands.inference.MANY_IMAGES", 3)
    monkeypatch.setattr("anchor_lightning.commands.inference.has_bf16", lambda: False)
    make_checkpoint(kind=detector)
    make_images("photos", "a.png", "b.png")
    exact, _ = predict("--source", "photos")
    assert "in onnxruntime" not in capsys.readouterr().out and exact
    draw(Path("photos/c.png"), 2, (96, 128))
    expected, _ = predict("--source", "photos", "--precision", "32-true")
    assert "in onnxruntime" not in capsys.readouterr().out
    rows, _ = predict("--source", "photos", "--batch_size", "2", *args)
    assert "64 x 96 pixels, in onnxruntime)" in capsys.readouterr().out
    assert len(rows) == len(expected) > len(exact)
    for row, other in zip(rows, expected, strict=True):
        assert row.pop("bbox") == pytest.approx(other.pop("bbox"), abs=1e-2)
        assert row == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    ("has_bf16", "args", "in_bf16"),
    [(True, [], True), (False, [], False), (True, ["--precision", "32-true"], False)],
    ids=["a processor with bf16", "without", "told otherwise"],
)
def test_in_bf16_where_the_processor_has_it(
    has_bf16: bool,
    args: list[str],
    in_bf16: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("anchor_lightning.commands.inference.has_bf16", lambda: has_bf16)
    make_checkpoint()
    make_images("photos", "a.png", "b.png")
    exact, _ = predict("--source", "photos", "--precision", "32-true")
    capsys.readouterr()
    rows, _ = predict("--source", "photos", *args)
    assert ("pixels, in bf16)" in capsys.readouterr().out) == in_bf16
    assert (rows != exact) == in_bf16 and rows[0]["score"] == pytest.approx(exact[0]["score"], abs=0.05)


@pytest.mark.parametrize(
    ("detector", "options"),
    [(YOLOv2, {}), (YOLOv3, {}), (YOLOv2, {"backbone": "tf_efficientnet_lite0"}), (YOLOv3, {"backbone": "resnet18"})],
    ids=["YOLOv2", "YOLOv3", "YOLOv2 on timm's", "YOLOv3 on timm's"],
)
def test_kernels_in_bf16_give_what_autocast_gives(detector: type[YOLO], options: dict[str, str]) -> None:
    if options:
        pytest.importorskip("timm")
    start = "yolov2-voc" if detector is YOLOv2 else "yolov3-coco"
    network = detector(2, AnchorOptions(init=start), [64, 96], width=0.1, **options).eval().network
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = network.levels(images)
        cast_kernels(network)
        found = network.levels(images)
    types = [module.weight.dtype for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert types.count(torch.bfloat16) > len(types) / 2
    for level, other in zip(found, expected, strict=True):
        torch.testing.assert_close(level.raw, other.raw, rtol=0, atol=0)


def test_an_onnxruntime_that_cannot_be_imported_is_not_taken_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('DLL load failed')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr("anchor_lightning.commands.inference.MANY_IMAGES", 1)
    monkeypatch.setattr("anchor_lightning.commands.inference.has_bf16", lambda: False)
    make_checkpoint()
    make_images("photos", "a.png")
    assert predict("--source", "photos")[0]
    assert "in onnxruntime" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"onnxruntime is installed and cannot be imported \(DLL load failed\)"):
        predict("--source", "photos", "--engine", "onnxruntime")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--engine", "onnxruntime", "--precision", "bf16-mixed"],
            "--engine: it runs YOLO detectors on a CPU in float",
        ),
        (["--engine", "onnxruntime"], "ONNX needs onnxruntime: run pip install onnxruntime"),
    ],
)
def test_what_onnxruntime_cannot_do_is_one_message(
    args: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else installed(name))
    pytest.importorskip("onnxscript")
    make_checkpoint()
    make_images("photos", "a.png")
    with pytest.raises(SystemExit, match=message):
        predict("--source", "photos", *args)
    assert not Path("runs/version_0/predictions").exists()


def test_anchors_of_boxes_are_shown_by_those_that_know_them() -> None:
    task = DetectionTask(num_classes=2, image_size=[64, 64], detector=partial(RetinaNet, pyramid_channels=32))
    save_task(task, Path("runs/version_0/checkpoints/last.ckpt"), image_size=[64, 64])
    make_images("photos", "a.png")
    with pytest.raises(SystemExit, match="--show_anchors: RetinaNet does not say which anchor a box came from"):
        predict("--source", "photos", "--show_anchors")
