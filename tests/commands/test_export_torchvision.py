"""`export --format onnx` and `predict` of torchvision's detectors: onnxruntime finds the boxes that the task finds."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anchor_lightning.cli import main
from anchor_lightning.commands.export import load_task
from anchor_lightning.data.images import read_image
from anchor_lightning.data.transforms import WHOLE_IMAGE, resize_window
from anchor_lightning.detectors import SSD, FasterRCNN, RetinaNet
from anchor_lightning.task import DetectionTask
from tests.helpers.checkpoints import save_task

pytestmark = pytest.mark.usefixtures("elsewhere")

SIZE = (96, 128)
DETECTORS: dict[str, Any] = {
    "fasterrcnn": partial(FasterRCNN, backbone="small"),
    "retinanet": partial(RetinaNet, backbone="small"),
    "ssd": partial(SSD, backbone="small"),
}
THRESHOLDS = {"fasterrcnn": 0.37, "retinanet": 0.97, "ssd": 0.7}  # which leave fewer boxes than are kept at most


def make_checkpoint(name: str) -> Path:
    """Of an untrained detector whose shapes have moved and whose scores spread."""
    torch.manual_seed(0)
    task = DetectionTask(
        3,
        detector=DETECTORS[name],
        anchors={"init": "model"},
        image_size=list(SIZE),
        score_threshold=THRESHOLDS[name],
    )
    with torch.no_grad():
        task.shapes.log_wh.add_(0.2 * torch.randn_like(task.shapes.log_wh))
        for key, value in task.detector.model.named_parameters():
            if any(part in key for part in ("cls_logits", "cls_score", "classification_head.module_list")):
                value.normal_(std=0.1)
    return save_task(task, Path(f"{name}/checkpoints/last.ckpt"), image_size=list(SIZE), images_seen=8)


def pixels(file: Path) -> Tensor:
    """A photograph as the network sees it."""
    return (
        torch.from_numpy(resize_window(read_image(file, SIZE), WHOLE_IMAGE, SIZE)).permute(2, 0, 1)[None].float() / 255
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_onnxruntime_finds_the_boxes(shared_data: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    checkpoint = make_checkpoint(name)
    args = ["export", "--ckpt_path", str(checkpoint), "--format", "onnx"]
    (path,) = main(args)
    assert path == Path(name) / "export" / f"{name}.onnx" and "a batch of one of 96 x 128" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    task = load_task(checkpoint)[0]
    files = sorted((shared_data / "BCCD" / "JPEGImages").glob("*.jpg"))[:2]
    counts = []
    for images in (torch.rand(1, 3, *SIZE), 0.3 * torch.rand(1, 3, *SIZE), *map(pixels, files)):
        boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": images.numpy()})
        with torch.no_grad():
            (found,) = task(images)
        rows = np.column_stack([labels[0], scores[0], boxes[0]])
        expected = np.column_stack([found.labels, found.scores, found.boxes_xyxy])
        # A box on the threshold of score or overlap may fall on the other side of it.
        assert len(rows) == pytest.approx(len(expected), abs=1 + len(expected) // 50) and len(expected) > 5
        close = [(np.abs(rows - row) <= [0, 1e-4, *[1e-2] * 4]).all(1).any() for row in expected]
        assert np.mean(close) >= 0.98
        assert labels.dtype == np.int64 and set(labels[0]) <= {0, 1, 2}
        counts.append(len(rows))
    assert len(set(counts)) > 1, "the number of detections is not that of the traced image"
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    np.testing.assert_allclose(json.loads(metadata["anchors"]), task.shapes.wh.detach(), rtol=1e-5)
    assert json.loads(metadata["anchors_per_level"]) == task.shapes.num_per_level
    assert json.loads(metadata["class_names"])[2] == "class 2" and metadata["score_threshold"] == str(THRESHOLDS[name])
    assert json.loads(metadata["image_size"]) == [96, 128] and "RGB in [0, 1]" in model.doc_string
    with pytest.raises(SystemExit, match=r"--nms: .* of torchvision always ends in its suppression"):
        main([*args, "--nms", "false"])


@pytest.mark.parametrize("name", DETECTORS)
def test_predict_draws_what_is_found(name: str) -> None:
    checkpoint = make_checkpoint(name)
    Path("photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photos/a.png")
    args = ["predict", "--ckpt_path", str(checkpoint), "--source", "photos", "--output", "out"]
    main([*args, "--score_threshold", "0.1"])
    rows = json.loads(Path("out/predictions.json").read_text())
    assert rows and {row["category_id"] for row in rows} <= {1, 2, 3} and Path("out/a.png").is_file()
    x, y, w, h = np.array([row["bbox"] for row in rows]).T
    assert x.min() >= 0 and (x + w).max() <= 80.01 and y.min() >= 0 and (y + h).max() <= 60.01, "of the stored image"
