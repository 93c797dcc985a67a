"""torchvision's detectors behind the interface of `Detector`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18, resnet50, vgg16
from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn, ssd300_vgg16

from anchor_lightning import DetectionTask
from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.detectors import SSD, FasterRCNN, RetinaNet, YOLOv2
from anchor_lightning.detectors.torchvision.detector import TorchvisionDetector
from anchor_lightning.detectors.torchvision.models import load_backbone
from anchor_lightning.errors import UserError
from anchor_lightning.structures import DetectionBatch, StepOptions
from anchor_lightning.training.optimizer import parameter_groups
from tests.helpers.bad_input import Command

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
RANDOM: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 3}
STEP = StepOptions(torch.zeros(()), "iou", 1.0, torch.ones(()), 1, 0)


def make(name: str, **options: Any) -> TorchvisionDetector:
    torch.manual_seed(0)
    detector: TorchvisionDetector = DETECTORS[name](3, AnchorOptions(init="model"), **options)
    return detector


def make_batch(size: tuple[int, int] = (96, 128)) -> DetectionBatch:
    """Two images: one with two boxes (and one without area, for which torchvision raises an error), one with none."""
    boxes = torch.zeros(2, 4, 4)
    boxes[0, :3] = torch.tensor([[10.0, 20, 60, 70], [30, 30, 110, 90], [5, 5, 5, 40]])
    labels = torch.tensor([[0, 2, 1, -1], [-1] * 4])
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    ids, sizes = torch.tensor([1, 2]), torch.tensor([[96.0, 128], [96, 128]])
    return DetectionBatch(images, boxes, labels, labels >= 0, ids, sizes, torch.tensor([[0.0, 1, 1]] * 2))


@pytest.mark.parametrize("name", SMALL)
def test_training_losses_and_detections(name: str) -> None:
    detector, batch = make(name), make_batch()
    given, seen = list[Any](), list[Any]()
    detector.model.register_forward_pre_hook(lambda module, args: given.append(args))
    detector.model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    assert len([key for key in detector.state_dict() if key.endswith(".log_wh")]) == 1
    terms = detector.train().training_losses(batch, STEP)
    assert "loss_clustering" in terms and all(key.startswith("loss_") for key in terms)
    assert all(term.isfinite() for term in terms.values())
    # The box without area is left out; 0 is the background of all but RetinaNet.
    assert given[0][1][0]["labels"].tolist() == ([0, 2] if "retinanet" in name else [1, 3])
    assert given[0][1][1]["boxes"].shape == (0, 4)
    torch.stack(list(terms.values())).sum().backward()
    assert detector.shapes.log_wh.grad is not None and detector.shapes.log_wh.grad.abs().sum() > 0
    found, proposals = detector.eval().detect(batch.images, 0.0)
    assert seen[0].shape == (2, 3, 96, 128) and torch.equal(*seen), "torchvision would resize to 800 pixels"
    assert len(found) == 2
    for detections in found:
        assert 0 < len(detections.scores) <= 300 and detections.scores.is_floating_point()
        assert detections.labels.min() >= 0 and detections.labels.max() <= 2, "0-based, without the background"
        assert (detections.anchors == -1).all()
        assert detections.boxes_xyxy[:, 0::2].max() <= 128 and detections.boxes_xyxy[:, 1::2].max() <= 96
    assert (proposals is not None) == detector.has_proposals == name.startswith("faster_rcnn")

    found, proposals = detector.detect(torch.rand(1, 3, 64, 96), 0.9999)
    assert seen[2].shape == (1, 3, 64, 96), "whatever the size of validation"
    assert len(found[0].scores) == 0
    for of_image in proposals or []:
        assert len(of_image) and of_image[:, 0::2].max() <= 96 and of_image[:, 1::2].max() <= 64


def test_softly_more_shapes_answer() -> None:
    """And the values of torchvision's losses do not depend on it."""
    detector, batch = make("retinanet_small_fpn").train(), make_batch()
    soft = replace(STEP, temperature=torch.tensor(2.0), distance="l2")
    hard_terms, soft_terms = (detector.training_losses(batch, step) for step in (STEP, soft))
    hard_gradient, soft_gradient = (
        torch.autograd.grad(torch.stack(list(terms.values())).sum(), detector.shapes.log_wh)[0]
        for terms in (hard_terms, soft_terms)
    )
    assert detector.shapes.distance == "l2" and float(detector.shapes.temperature) == 2
    assert hard_gradient.any(1).sum() <= 2, "a shape a box"
    assert soft_gradient.any(1).sum() >= 9, "all of a level"
    for name in hard_terms:
        assert torch.equal(hard_terms[name], soft_terms[name]) == (name != "loss_clustering")


def test_network_is_torchvisions_own() -> None:
    """Of the same weights the same output."""
    ours = make("retinanet_r50_fpn").eval()
    stock = retinanet_resnet50_fpn(**RANDOM, _skip_resize=True, score_thresh=0.0, detections_per_img=300)
    stock.eval().to(memory_format=torch.channels_last)  # as ours: it rounds otherwise
    stock.transform.fixed_size, ours.model.score_thresh = (128, 96), 0.0
    stock.load_state_dict({k: v for k, v in ours.model.state_dict().items() if "anchor_generator" not in k})
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        (found,), (expected,) = ours(images), stock(list(images))
    assert len(expected["boxes"]) and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", SMALL[1:])
def test_boxes_are_float32_under_autocast(name: str) -> None:
    """torchvision would round corners to bfloat16, 2 pixels at 300; a thin box has no width then, and gives NaN."""
    detector, batch = make(name).eval(), make_batch((96, 640))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        boxes = torch.cat([d.boxes_xyxy for d in detector.detect(batch.images, 0.0).detections])
        batch.boxes_xyxy[0, 0] = torch.tensor([600.2, 10, 600.9, 60])
        terms = detector.train().training_losses(batch, replace(STEP, clustering_weight=0.0))
    inside = boxes[(boxes > 300) & (boxes < 600)]
    assert boxes.dtype == torch.float32 and len(inside) > 10
    assert not torch.equal(inside, inside.bfloat16().float())
    assert all(term.isfinite() for term in terms.values()) and terms["loss_clustering"] == 0, "λ is the task's"


def test_a_broken_network_is_no_detector_that_finds_nothing() -> None:
    detector = make("ssd_small").eval()
    detector.model.backbone["bn1"].running_var[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        detector.detect(torch.rand(1, 3, 96, 96), 0.1)


def test_fully_connected_layers_decay_too() -> None:
    detector = make("faster_rcnn_small_fpn")
    groups = {g["name"]: g["params"] for g in parameter_groups(detector, detector.shapes.log_wh, 5e-4, 2.0)}
    assert {p.dim() for p in groups["network"]} == {2, 4} and groups["anchors"] == [detector.shapes.log_wh]


@pytest.mark.parametrize("name", ["faster_rcnn_r50_c4", "faster_rcnn_r50_fpn", "ssd300"])
def test_backbone_from_a_file(tmp_path: Path, name: str) -> None:
    """The networks whose names are torchvision's have its anchors, too."""
    with torch.device("meta"):
        source = vgg16() if name == "ssd300" else resnet50()
        stock = ssd300_vgg16(**RANDOM).anchor_generator, fasterrcnn_resnet50_fpn(**RANDOM).rpn.anchor_generator
    weights = {k: torch.rand(v.shape) for k, v in source.state_dict().items() if not k.startswith("classifier")}
    torch.save(weights, tmp_path / "weights.pth")
    detector = make(name, backbone_weights=str(tmp_path / "weights.pth"))
    assert "weights.pth" in detector.load_pretrained() and detector.architecture["backbone_weights"]
    backbone = detector.model.backbone
    if name == "ssd300":
        parts = {"features.2": backbone.features[2], "features.24": backbone.extra[0][1]}
        assert detector.model.anchor_generator.scales == stock[0].scales
        assert detector.model.anchor_generator.aspect_ratios == stock[0].aspect_ratios
    else:
        body = backbone.body if "fpn" in name else backbone
        last = body["layer4"] if "fpn" in name else detector.model.roi_heads.box_head[0]
        parts = {"conv1": body["conv1"], "layer3.5.conv2": body["layer3"][5].conv2, "layer4.2.conv3": last[2].conv3}
        own = detector.model.rpn.anchor_generator
        assert "c4" in name or (own.sizes, own.aspect_ratios) == (stock[1].sizes, stock[1].aspect_ratios)
        assert not any(p.requires_grad for p in body["layer1"].parameters())
        assert all(p.requires_grad for p in body["layer2"].parameters())
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in detector.modules()), "they are frozen"
    assert all(torch.equal(part.weight, weights[f"{key}.weight"]) for key, part in parts.items())


def test_backbone_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in a file is run, and a damaged one leaves the network as it was."""
    monkeypatch.chdir(tmp_path)
    network = resnet18()
    network.fc = torch.nn.Identity()
    before = network.conv1.weight.clone()
    damaged = torch.full((64, 64, 3, 3), torch.inf)
    torch.save(network.state_dict() | {"layer1.0.conv1.weight": damaged}, "inf.pth")
    torch.save({"fc": torch.zeros(3)}, "other.pth")
    torch.save({"conv1.weight": Command()}, "command.pth")
    for given, message in {
        "command.pth": "command.pth is no file of weights",
        "other.pth": "100 of 100",
        "inf.pth": r"inf\.pth.* not finite, in layer1\.0\.conv1\.weight",
        "none.pth": "IMAGENET1K_V1, IMAGENET1K_V2",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_backbone(network, given)
    assert torch.equal(network.conv1.weight, before) and not Path("evil").exists()
    with torch.device("meta"), pytest.raises(ValueError, match=r"IMAGENET1K_V1 .* IMAGENET1K_FEATURES"):
        load_backbone(vgg16(), "IMAGENET1K_V1")  # VGG's others want other images


def test_a_checkpoint_of_another_input_size() -> None:
    """SSD's shapes are shares of the input, which the weights do not show."""
    small, large = (
        DetectionTask(num_classes=3, detector=DETECTORS["ssd_small"], anchors={"init": "model"}, image_size=[side] * 2)
        for side in (128, 512)
    )
    checkpoint: dict[str, Any] = {"state_dict": small.state_dict()}
    small.on_save_checkpoint(checkpoint)
    with pytest.raises(UserError, match=r"128.*512") as caught:
        large.on_load_checkpoint(checkpoint)
    assert caught.value.argument == "detector.image_size"


@pytest.mark.parametrize(
    ("detector", "anchors", "message"),
    [
        (partial(SSD, backbone="small", backbone_weights="IMAGENET1K_V1"), {"init": "model"}, "backbone_weights"),
        (DETECTORS["ssd_small"], {"init": "model", "num": 5}, "SSD has 16 shapes"),
        (DETECTORS["ssd_small"], {"init": "yolov2-voc"}, "model, uniform, identical, kmeans"),
        (DETECTORS["ssd_small"], {"init": [[10.0, 20.0]]}, "expected .16, 2."),
        (YOLOv2, {"init": "model"}, "unknown 'model'"),
        (partial(SSD, backbone="small", bound_octaves=-0.5), {"init": "model"}, "bound_octaves: .*-0.5"),
        (partial(FasterRCNN, backbone="small", fpn=False, share_levels=True), {"init": "model"}, "share_levels: .*15"),
    ],
)
def test_options_that_do_not_fit(detector: Any, anchors: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionTask(num_classes=3, detector=detector, anchors=anchors)


def test_bfloat16_weights_are_an_error() -> None:
    with pytest.raises(ValueError, match="use bf16-mixed"):
        make("ssd_small").bfloat16().train().training_losses(make_batch(), STEP)
