"""`export --format onnx` through the command line: onnxruntime finds the boxes that `postprocess` finds."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.cli import main
from anchor_lightning.commands.export import load_task
from anchor_lightning.data.images import read_image
from anchor_lightning.data.transforms import WHOLE_IMAGE, resize_window
from anchor_lightning.detectors import YOLOv2, YOLOv3
from anchor_lightning.detectors.yolo.postprocess import MAX_DETECTIONS
from anchor_lightning.structures import Detections
from anchor_lightning.task import DetectionTask
from tests.helpers.checkpoints import save_task

pytestmark = pytest.mark.usefixtures("elsewhere")

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZE = (96, 128)
SHAPES = torch.tensor([[20.0, 30], [40, 20], [50, 50], [15, 15], [90, 40]])
EXPORT = sys.modules["anchor_lightning.commands.export"]  # the package's attribute of that name is the function


def make_checkpoint(
    path: Path | str = "last.ckpt", learned: bool = True, gain: float = 20.0, levels: list[Any] | None = None
) -> Path:
    """Of an untrained detector whose statistics are not their start values and whose boxes overlap and differ."""
    torch.manual_seed(0)
    detector = partial(YOLOv3 if levels else YOLOv2, width=0.1, bn_without_shift=learned)
    init = levels or (SHAPES if learned else SHAPES.flip(1)).tolist()
    task = DetectionTask(num_classes=3, detector=detector, anchors=AnchorOptions(init), score_threshold=0.01)
    with torch.no_grad():
        for head in task.detector.network.heads:
            last = head.rest if head.norm is not None else head.all
            last.weight.mul_(gain)
            last.bias.normal_()  # the exporter leaves a bias of zeros out
        task.train()
        for _ in range(3):
            task.detector.network(torch.rand(2, 3, *SIZE))
    return save_task(task, Path(path), image_size=list(SIZE), images_seen=8)


def export(checkpoint: Path, *args: str) -> Path:
    (path,) = main(["export", "--ckpt_path", str(checkpoint), "--format", "onnx", *args])
    assert isinstance(path, Path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Arm -> checkpoint and the file that is made of it."""
    folder = tmp_path_factory.mktemp("runs")
    checkpoints = {
        arm: make_checkpoint(folder / arm / "checkpoints" / "last.ckpt", arm == "learned")
        for arm in ("learned", "baseline")
    }
    return {arm: (checkpoint, export(checkpoint)) for arm, checkpoint in checkpoints.items()}


def run(model: Path | bytes, images: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images.numpy()}), strict=True))


@torch.inference_mode()
def ours(images: Tensor, checkpoint: Path) -> list[Detections]:
    return load_task(checkpoint)[0](images)


def assert_same(theirs: dict[str, np.ndarray], found: list[Detections]) -> int:
    """Row by row; rows whose scores are equal to the last digits may have changed places."""
    total = 0
    for index, detections in enumerate(found):
        scores, labels = theirs["scores"][index], theirs["labels"][index]
        num = int((labels >= 0).sum())
        assert abs(num - len(detections.scores)) <= num // 100  # an overlap may lie on its threshold to the last bit
        assert (scores[num:] == 0).all() and (labels[num:] == -1).all() and (theirs["boxes"][index, num:] == 0).all()
        assert (np.diff(scores) <= 0).all()
        rows = np.column_stack([labels, scores, theirs["boxes"][index]])[:num]
        expected = np.column_stack([detections.labels, detections.scores, detections.boxes_xyxy])
        for row in expected:
            match = np.abs(rows - row) <= np.array([0, 1e-5, *[1e-2] * 4])
            total += bool(match.all(axis=1).any())
    assert total >= 0.99 * sum(len(detections.scores) for detections in found)
    return total


@pytest.mark.parametrize("arm", ["learned", "baseline"])
@pytest.mark.parametrize("num", [1, 3])
def test_onnxruntime_finds_the_boxes_in_any_batch(
    shared_data: Path, exported: dict[str, tuple[Path, Path]], arm: str, num: int
) -> None:
    checkpoint, path = exported[arm]
    assert path == checkpoint.parents[1] / "export" / "yolov2.onnx" and list(path.parent.iterdir()) == [path]
    files = sorted((shared_data / "BCCD" / "JPEGImages").glob("*.jpg"))[:num]
    pixels = np.stack([resize_window(read_image(file, SIZE), WHOLE_IMAGE, SIZE) for file in files])
    for images in (torch.rand(num, 3, *SIZE), torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255):
        theirs = run(path, images)
        assert theirs["boxes"].shape == (num, 5 * 12 * 3, 4) and theirs["labels"].dtype == np.int64
        assert assert_same(theirs, ours(images, checkpoint)) > 20 * num
        assert theirs["boxes"].min() >= 0 and (theirs["boxes"].max(axis=(0, 1)) <= [128, 96, 128, 96]).all()


def test_more_boxes_than_are_kept() -> None:
    """Of 5 x 64 boxes with 3 classes NMS leaves over 300; the best are the same ones, at another size and path."""
    checkpoint = make_checkpoint(gain=2.0)
    path = export(checkpoint, "--image_size", "256", "--output", "out/my.net")
    assert path == Path("out/my.net.onnx")
    images = torch.rand(2, 3, 256, 256)
    found, theirs = ours(images, checkpoint), run(path, images)
    assert theirs["scores"].shape == (2, MAX_DETECTIONS)
    np.testing.assert_allclose(theirs["scores"], torch.stack([d.scores for d in found]), atol=1e-5)
    assert assert_same(theirs, found) > 590


def test_the_levels_of_yolov3_come_one_behind_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 2, 3 and 1 shapes on them; classes are independent. The exporter takes long for all 23 residuals."""
    monkeypatch.setattr("anchor_lightning.detectors.backbones.RESIDUALS", (1, 1, 1, 1, 1))
    levels = [[[9, 12], [16, 10]], [[30, 30], [20, 36], [40, 24]], [[60, 50]]]
    checkpoint = make_checkpoint(levels=levels)
    path, images = export(checkpoint, "--output", "v3"), torch.rand(2, 3, *SIZE)
    found, theirs = ours(images, checkpoint), run(path, images)
    level_of = torch.tensor([0, 0, 1, 1, 1, 2])
    assert {int(level) for detections in found for level in level_of[detections.anchors]} == {0, 1, 2}
    assert theirs["boxes"].shape == (2, MAX_DETECTIONS, 4) and assert_same(theirs, found) > 100
    model = onnx.load(path)
    metadata = {p.key: p.value for p in model.metadata_props}
    assert metadata["anchors_per_level"] == "[2, 3, 1]" and metadata["strides"] == "[8, 16, 32]"
    assert model.doc_string.startswith("YOLOv3. ")


def test_an_image_without_any_detection_is_all_padding(exported: dict[str, tuple[Path, Path]]) -> None:
    model = onnx.load(exported["learned"][1])
    (threshold,) = (node for node in model.graph.node if node.output == ["nms_threshold"])
    threshold.attribute[0].floats[0] = 0.999999
    theirs = run(model.SerializeToString(), torch.rand(2, 3, *SIZE))
    assert (theirs["labels"] == -1).all() and not theirs["scores"].any() and not theirs["boxes"].any()


def test_without_nms_all_boxes_and_scores_come_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The suppression applied to them outside gives what it gives inside."""
    checkpoint = make_checkpoint()
    path, images = export(checkpoint, "--nms", "false"), torch.rand(3, 3, *SIZE)
    printed = capsys.readouterr().out
    assert "opset 18" in printed and "96 x 128" in printed and str(path) in printed
    theirs = run(path, images)
    assert list(theirs) == ["boxes", "scores"]
    assert theirs["boxes"].shape == (3, 60, 4) and theirs["scores"].shape == (3, 60, 3)
    for index, detections in enumerate(ours(images, checkpoint)):
        scores, boxes = torch.from_numpy(theirs["scores"][index]), torch.from_numpy(theirs["boxes"][index])
        clipped = boxes.clamp_min(0).minimum(torch.tensor([128, 96, 128, 96]))
        for box, score, label, anchor in zip(*vars(detections).values(), strict=True):
            same = ((clipped - box).abs().amax(1) < 1e-2) & ((scores[:, label] - score).abs() < 1e-5)
            assert same.view(5, -1)[anchor].any()  # by anchor, then by cell


def test_a_baseline_is_the_same_graph(exported: dict[str, tuple[Path, Path]]) -> None:
    """What the method adds is gone: the same operators in the same order on weights of the same shapes."""
    models = [onnx.load(path) for _, path in exported.values()]
    nodes, others = ([node.op_type for node in model.graph.node] for model in models)
    assert nodes == others and "BatchNormalization" not in nodes and nodes.count("Conv") == 23
    weights, others = (sorted(str((w.data_type, list(w.dims))) for w in m.graph.initializer) for m in models)
    assert weights == others


def test_the_file_says_what_it_is(exported: dict[str, tuple[Path, Path]]) -> None:
    path = exported["learned"][1]
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    metadata = {p.key: p.value for p in model.metadata_props}
    np.testing.assert_allclose(json.loads(metadata["anchors"]), SHAPES, rtol=1e-5)
    assert json.loads(metadata["class_names"]) == ["class 0", "class 1", "class 2"]
    assert json.loads(metadata["image_size"]) == [96, 128] and metadata["opset"] == "18"
    assert metadata["score_threshold"] == "0.01" and metadata["nms_iou"] == "0.45"
    assert metadata["source"] == "last.ckpt, exported by anchor_lightning"
    assert "RGB in [0, 1]" in model.doc_string and "labels" in model.doc_string
    (image,) = model.graph.input
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 3, 96, 128]
    # Where the exporter found the code is nobody's business.
    assert not re.search(rb"stack_trace|site-packages|\.py\b", path.read_bytes())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--format", "darknet", "--nms", "true"], "--nms: darknet's files never hold the suppression"),
        (["--format", "onnx", "--image_size", "100"], "multiple of 32"),
        (["--format", "onnx", "--output", "file/yolov2"], "file cannot be written to"),
        (["--format", "onnx", "--output", "folder"], r"folder\.onnx is a folder"),
        (["--format", "onnx", "--ckpt_path", "none.ckpt"], "--ckpt_path: there is no file none.ckpt"),
        (["--format", "onnx", "--ckpt_path", "cut.ckpt"], "is not a checkpoint that can be read"),
        (["--format", "onnx", "--ckpt_path", "foreign.ckpt"], "not a checkpoint of this project"),
        (["--format", "onnx", "--ckpt_path", "other.ckpt"], "does not fit this version"),
    ],
)
def test_what_cannot_be_exported_is_one_message(monkeypatch: pytest.MonkeyPatch, args: list[str], message: str) -> None:
    monkeypatch.setattr(EXPORT.yolo_onnx, "onnx_model", lambda *_: b"a model")
    checkpoint = make_checkpoint()
    Path("file").write_text("in the way")
    Path("folder.onnx").mkdir()
    Path("cut.ckpt").write_bytes(b"PK\x03\x04 and no more")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, "foreign.ckpt")
    torch.save({"state_dict": {"shapes.log_wh": torch.zeros(5, 2)}, "pytorch-lightning_version": "2.6.0"}, "other.ckpt")
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit, match=message):
        main(["export", "--ckpt_path", str(checkpoint), *args])
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    with pytest.raises(SystemExit, match=f"{missing}: run pip install {missing}$"):
        export(Path("none.ckpt"))
