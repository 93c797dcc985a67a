"""torchvision's detectors behind the interface of `Detector`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18, resnet50, vgg16

from anchor_lightning import DetectionTask
from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.detectors import SSD, FasterRCNN, RetinaNet, YOLOv2
from anchor_lightning.detectors.torchvision.detector import TorchvisionDetector
from anchor_lightning.detectors.torchvision.models import load_backbone
from anchor_lightning.errors import UserError
from anchor_lightning.structures import DetectionBatch, StepOptions
from anchor_lightning.training.optimizer import parameter_groups

DETECTORS: dict[str, Any] = {
    "faster_rcnn_r50_c4": partial(FasterRCNN, fpn=False),
    "faster_rcnn_r50_fpn": FasterRCNN,
    "retinanet_r50_fpn": RetinaNet,
    "ssd300": SSD,
    "faster_rcnn_small_c4": partial(FasterRCNN, backbone="small", fpn=False),
    "faster_rcnn_small_fpn": partial(FasterRCNN, backbone="small"),
    "retinanet_small_fpn": partial(RetinaNet, backbone="small"),
    "ssd_small": partial(SSD, backbone="small"),
}
SMALL = [name for name in DETECTORS if "small" in name]


def make(name: str, **options: Any) -> TorchvisionDetector:
    torch.manual_seed(0)
    detector: TorchvisionDetector = DETECTORS[name](3, AnchorOptions(init="model"), **options)
    return detector


def make_batch(size: tuple[int, int] = (96, 128)) -> DetectionBatch:
    """Two images: one with two boxes (and one without area, for which torchvision raises an error), one with none."""
    boxes = torch.zeros(2, 4, 4)
    boxes[0, :3] = torch.tensor([[10.0, 20, 60, 70], [30, 30, 110, 90], [5, 5, 5, 40]])
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[0, :3] = True
    labels = torch.full((2, 4), -1)
    labels[0, :3] = torch.tensor([0, 2, 1])
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    ids, sizes = torch.tensor([1, 2]), torch.tensor([[96.0, 128], [96, 128]])
    return DetectionBatch(images, boxes, labels, mask, ids, sizes, torch.tensor([[0.0, 1, 1]] * 2))


def options_of_step(weight: float = 1.0) -> StepOptions:
    return StepOptions(torch.zeros(()), "iou", weight, torch.ones(()), 1, 0)


@pytest.mark.parametrize("name", SMALL)
def test_training_losses_and_detections(name: str) -> None:
    detector, batch = make(name), make_batch()
    assert len([key for key in detector.state_dict() if key.endswith(".log_wh")]) == 1
    terms = detector.train().training_losses(batch, options_of_step())
    assert "loss_clustering" in terms and all(key.startswith("loss_") for key in terms)
    assert all(term.isfinite() for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert detector.shapes.log_wh.grad is not None and detector.shapes.log_wh.grad.abs().sum() > 0
    without = detector.training_losses(batch, options_of_step(0.0))
    assert without["loss_clustering"] == 0, "λ is the task's"
    found, proposals = detector.eval().detect(batch.images, 0.0)
    assert len(found) == 2
    for detections in found:
        assert 0 < len(detections.scores) <= 300 and detections.scores.is_floating_point()
        assert detections.labels.min() >= 0 and detections.labels.max() <= 2, "0-based, without the background"
        assert (detections.anchors == -1).all()
        assert detections.boxes_xyxy[:, 0::2].max() <= 128 and detections.boxes_xyxy[:, 1::2].max() <= 96
    assert [len(d.scores) for d in detector.detect(batch.images, 0.9999).detections] == [0, 0]
    assert (proposals is not None) == detector.has_proposals == name.startswith("faster_rcnn")
    assert proposals is None or [p.shape[1] for p in proposals] == [4, 4]


@pytest.mark.parametrize(("name", "labels"), [("retinanet_small_fpn", [0, 2]), ("ssd_small", [1, 3])])
def test_only_a_detector_with_a_background_class_counts_from_one(name: str, labels: list[int]) -> None:
    seen: list[Any] = []
    detector = make(name).train()
    detector.model.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    detector.training_losses(make_batch(), options_of_step())
    assert seen[0][0]["labels"].tolist() == labels, "and the box without area is left out"
    assert seen[0][1]["boxes"].shape == (0, 4)


def test_large_detectors_have_torchvisions_own_anchors() -> None:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn, ssd300_vgg16

    nothing = {"weights": None, "weights_backbone": None, "num_classes": 3}
    for name, stock in (
        ("faster_rcnn_r50_fpn", fasterrcnn_resnet50_fpn(**nothing).rpn),
        ("retinanet_r50_fpn", retinanet_resnet50_fpn(**nothing)),
    ):
        cells = torch.cat(stock.anchor_generator.cell_anchors)
        assert torch.equal(make(name).shapes.start, cells)
        assert len(make(name).state_dict()) > 200
    pairs = torch.cat(ssd300_vgg16(**nothing).anchor_generator._wh_pairs).clamp(0, 1)
    start = make("ssd300").shapes.start
    torch.testing.assert_close(start[:, 2:] - start[:, :2], pairs)


def test_network_is_torchvisions_own() -> None:
    """Same seed, same weights, same output as the detector that torchvision itself builds."""
    from torchvision.models.detection import retinanet_resnet50_fpn

    ours = make("retinanet_r50_fpn").eval()
    stock = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, _skip_resize=True).eval()
    stock.detections_per_img, stock.transform.fixed_size = 300, (128, 96)
    stock.load_state_dict({k: v for k, v in ours.model.state_dict().items() if "anchor_generator" not in k})
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        (found,), (expected,) = ours(images), stock(list(images))
    for key in expected:
        assert torch.equal(found[key], expected[key])


@pytest.mark.parametrize("name", ["faster_rcnn_small_fpn", "retinanet_small_fpn", "ssd_small"])
def test_boxes_are_float32_under_autocast(name: str) -> None:
    """torchvision would round corners to bfloat16, 2 pixels at 300; a thin box has no width then, and gives NaN."""
    detector, batch = make(name).eval(), make_batch((96, 640))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        boxes = torch.cat([d.boxes_xyxy for d in detector.detect(batch.images, 0.0).detections])
    inside = boxes[(boxes > 300) & (boxes < 600)]
    assert boxes.dtype == torch.float32 and len(inside) > 10
    assert not torch.equal(inside, inside.bfloat16().float())
    batch.boxes_xyxy[0, 0] = torch.tensor([600.2, 10, 600.9, 60])
    with torch.autocast("cpu", torch.bfloat16):
        terms = detector.train().training_losses(batch, options_of_step())
    assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize("name", ["faster_rcnn_small_fpn", "retinanet_small_fpn", "ssd_small"])
def test_evaluation_sees_the_images_as_training_does(name: str) -> None:
    """torchvision's own resizing, to 800 pixels, is for training alone switched off by its `_skip_resize`."""
    detector, batch, seen = make(name), make_batch(), []
    detector.model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    detector.train().training_losses(batch, options_of_step())
    detector.eval().detect(batch.images, 0.1)
    assert seen[0].shape == (2, 3, 96, 128)
    assert torch.equal(seen[0], seen[1])
    smaller = torch.rand(1, 3, 64, 96)
    output = detector.detect(smaller, 0.1)
    assert seen[2].shape == smaller.shape, "whatever the size of validation"
    for proposals in output.proposals or []:
        assert proposals[:, 0::2].max() <= 96 and proposals[:, 1::2].max() <= 64


@pytest.mark.parametrize("part", ["weight", "running_var"])
def test_a_broken_network_is_no_detector_that_finds_nothing(part: str) -> None:
    detector = make("ssd_small").eval()
    with torch.no_grad():
        getattr(detector.model.backbone["bn1"], part)[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        detector.detect(torch.rand(1, 3, 96, 96), 0.1)


def test_every_parameter_is_trained_once() -> None:
    detector = make("faster_rcnn_small_fpn")
    groups = {g["name"]: g for g in parameter_groups(detector, detector.shapes.log_wh, 5e-4, 2.0)}
    assert groups["anchors"]["params"] == [detector.shapes.log_wh]
    assert sum(len(g["params"]) for g in groups.values()) == len(list(detector.parameters()))
    assert {p.dim() for p in groups["network"]["params"]} == {2, 4}, "convolutions and fully connected layers"


@pytest.mark.parametrize("name", ["faster_rcnn_r50_c4", "faster_rcnn_r50_fpn", "ssd300"])
def test_backbone_from_a_file(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    source = vgg16(weights=None) if name == "ssd300" else resnet50(weights=None)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    detector = make(name, backbone_weights=str(tmp_path / "weights.pth"))
    assert "weights.pth" in detector.load_pretrained() and detector.architecture["backbone_weights"]
    if name == "ssd300":
        parts = [(detector.model.backbone.features[2], source.features[2])]
        parts.append((detector.model.backbone.extra[0][1], source.features[24]))
    else:
        body = detector.model.backbone.body if "fpn" in name else detector.model.backbone
        parts = [(body["conv1"], source.conv1), (body["layer3"][5].conv2, source.layer3[5].conv2)]
        last = body["layer4"] if "fpn" in name else detector.model.roi_heads.box_head[0]
        parts.append((last[2].conv3, source.layer4[2].conv3))
        assert not any(p.requires_grad for p in body["layer1"].parameters())
        assert all(p.requires_grad for p in body["layer2"].parameters())
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in detector.modules()), "they are frozen"
    assert all(torch.equal(ours.weight, theirs.weight) for ours, theirs in parts)


def test_a_checkpoint_of_another_input_size() -> None:
    """SSD's shapes are shares of the input, which the weights do not show."""

    def task(size: list[int]) -> DetectionTask:
        kind = partial(SSD, backbone="small")
        return DetectionTask(num_classes=3, detector=kind, anchors={"init": "model"}, image_size=size)

    small = task([128, 128])
    checkpoint: dict[str, Any] = {"state_dict": small.state_dict()}
    small.on_save_checkpoint(checkpoint)
    with pytest.raises(UserError, match=r"128.*512") as caught:
        task([512, 512]).on_load_checkpoint(checkpoint)
    assert caught.value.argument == "detector.image_size"


class Evil:
    """Its loading makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def test_backbone_that_cannot_be_had(tmp_path: Path) -> None:
    """Nothing in a file is run, and a damaged one leaves the network as it was."""
    network = resnet18(weights=None)
    network.fc = torch.nn.Identity()
    before = network.conv1.weight.clone()
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"conv1.weight": Evil(tmp_path / "evil")}, tmp_path / "evil.pth")
    torch.save({"fc": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save(
        network.state_dict() | {"layer1.0.conv1.weight": torch.full((64, 64, 3, 3), torch.inf)}, tmp_path / "inf.pth"
    )
    for given, message in {
        "text.pth": "text.pth",
        "evil.pth": "evil.pth",
        "other.pth": "100 of 100",
        "inf.pth": r"inf\.pth holds numbers that are not finite, in layer1\.0\.conv1\.weight",
        "none.pth": "IMAGENET1K_V1, IMAGENET1K_V2",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_backbone(network, str(tmp_path / given))
    assert torch.equal(network.conv1.weight, before) and not (tmp_path / "evil").exists()
    with pytest.raises(ValueError, match=r"IMAGENET1K_V1 .* IMAGENET1K_FEATURES"):  # others want other images
        make("ssd300", backbone_weights="IMAGENET1K_V1").load_pretrained()


@pytest.mark.parametrize(
    ("detector", "anchors", "message"),
    [
        (partial(SSD, backbone="small", backbone_weights="IMAGENET1K_V1"), {"init": "model"}, "backbone_weights"),
        (partial(SSD, backbone="small"), {"init": "model", "num": 5}, "SSD has 16 shapes"),
        (partial(SSD, backbone="small"), {"init": "yolov2-voc"}, "model, uniform, identical, kmeans"),
        (partial(SSD, backbone="small"), {"init": [[10.0, 20.0]]}, "expected .16, 2."),
        (YOLOv2, {"init": "model"}, "unknown 'model'"),
    ],
)
def test_options_that_do_not_fit(detector: Any, anchors: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionTask(num_classes=3, detector=detector, anchors=anchors)


def test_what_else_does_not_go() -> None:
    with pytest.raises(TypeError, match="width"):
        DetectionTask(num_classes=3, detector=partial(SSD, width=0.5), anchors={"init": "model"})
    with pytest.raises(ValueError, match="use bf16-mixed"):
        make("ssd_small").bfloat16().train().training_losses(make_batch(), options_of_step())
