"""Faster R-CNN and RetinaNet on networks of timm: against timm itself, frozen, and through the command line."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anchor_lightning import DetectionTask, freeze_anchors, make_anchors_learnable
from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.cli import main
from anchor_lightning.commands.export import load_task
from anchor_lightning.detectors import FasterRCNN, RetinaNet
from anchor_lightning.detectors.torchvision import models
from anchor_lightning.errors import UserError
from tests.detectors.torchvision.test_detector import STEP, make_batch
from tests.helpers.made_data import make_yolo
from tests.helpers.tiny_training import QUIET, SMALL_BATCHES

timm = pytest.importorskip("timm")
NAME = "mobilenetv3_small_050"
KINDS: dict[str, Any] = {"fpn": FasterRCNN, "retinanet": RetinaNet}
STRIDES = {"fpn": [4, 8, 16, 32, 64], "retinanet": [8, 16, 32, 64, 128]}


def make(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return KINDS[kind](3, AnchorOptions("model"), backbone=NAME, pyramid_channels=32, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_timm_with_its_own_mean(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(1)
    network = timm.create_model(NAME).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    detector = make(kind, backbone_weights=str(tmp_path / "weights.pth"))
    assert "weights.pth" in detector.load_pretrained()
    detector.eval()
    given, seen = list[Any](), list[Any]()
    detector.model.backbone.body.register_forward_hook(lambda module, args, output: given.append(output))
    detector.model.backbone.register_forward_hook(lambda module, args, output: seen.append(output))
    images = torch.rand(2, 3, 128, 160)
    detector.detect(images, 0.5)
    mean, deviation = (torch.tensor(network.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    _, fine, *_, coarse = network.forward_intermediates((images - mean) / deviation, intermediates_only=True)
    found = dict(zip(STRIDES[kind], given[0].values(), strict=False))
    torch.testing.assert_close(found[32], coarse)
    if kind == "fpn":
        torch.testing.assert_close(found[4], fine)
    assert [128 // map_.shape[2] for map_ in seen[0].values()] == STRIDES[kind]
    assert all(map_.shape[1] == 32 for map_ in seen[0].values())


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_it_has_torchvisions_and_timms_classes(kind: str) -> None:
    """Whole, it loads where this package is not."""
    of_fpn = partial(models.faster_rcnn_fpn, levels=FasterRCNN.pyramid_levels)
    build: Any = {"fpn": of_fpn, "retinanet": models.retinanet}[kind]
    torch.manual_seed(0)
    model, backbone = build(3, NAME, False, 32)
    stock = [type(module) for module in model.modules() if not isinstance(module, torch.fx.GraphModule)]
    make_anchors_learnable(model)
    freeze_anchors(model)
    assert [type(module) for module in model.modules() if not isinstance(module, torch.fx.GraphModule)] == stock
    assert {kind.__module__.partition(".")[0] for kind in stock} == {"torch", "torchvision", "timm"}
    assert any(module is backbone.network for module in model.modules())
    content = pickle.dumps(model)
    assert b"anchor_lightning" not in content
    image = torch.rand(3, 64, 96)
    expected, found = (each.eval()([image])[0] for each in (model, pickle.loads(content)))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(("stages", "norms"), [(0, None), (2, False), (0, True), ("all", None)])
def test_what_is_frozen_keeps_weights_and_statistics(stages: Any, norms: bool | None) -> None:
    weights = {"backbone_weights": "not read here"} if norms is None else {"freeze_norms": norms}
    detector = make("retinanet", freeze_backbone=stages, **weights).train()
    body = detector.model.backbone.body.network
    before = {key: value.clone() for key, value in body.state_dict().items()}
    optimizer = torch.optim.SGD(detector.parameters(), 0.1)
    terms = detector.training_losses(make_batch(), STEP)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    changed = {key for key, value in body.state_dict().items() if not torch.equal(value, before[key])}
    assert bool({key for key in changed if "running" in key}) == (norms is False)
    assert ("conv_stem.weight" in changed) == (stages == 0)
    assert any(key.startswith("blocks.4") for key in changed) == (stages != "all")
    assert detector.shapes.log_wh.grad.abs().sum() > 0


def test_its_parameter_groups_have_their_factor() -> None:
    detector = partial(RetinaNet, backbone=NAME, pyramid_channels=32, backbone_lr_mult=0.1)
    task = DetectionTask(2, detector=detector, anchors={"init": "model"}, learning_rate=1e-2)
    groups = {group["name"]: group for group in task._parameter_groups()}
    body = set(task.detector.model.backbone.body.parameters())
    assert {*groups["backbone"]["params"], *groups["backbone_no_decay"]["params"]} == body
    assert groups["backbone"]["lr"] == 0.1 and groups["network"]["lr"] == 1
    assert sum(len(group["params"]) for group in groups.values()) == len(list(task.parameters()))


def test_checkpoints_fit_by_what_the_options_mean() -> None:
    """The default number of channels is the same given or not; those of before, without the entries, fit."""
    small = partial(RetinaNet, 3, AnchorOptions("model"), backbone="small")
    assert small().architecture == small(pyramid_channels=64).architecture
    assert {name for name, value in small().architecture.items() if value is not None} == {
        "backbone",
        "backbone_weights",
    }
    assert small(pyramid_channels=32).architecture["pyramid_channels"] == 32


def test_batch_norms_that_lose_their_activations_are_rejected() -> None:
    detector = make("retinanet")
    nn.SyncBatchNorm.convert_sync_batchnorm(detector)
    with pytest.raises(UserError, match="sync_batchnorm"):
        detector.check()


@pytest.mark.parametrize(
    ("kind", "options", "argument", "said"),
    [
        (FasterRCNN, {"backbone": NAME, "fpn": False}, "fpn", NAME),
        (FasterRCNN, {"backbone": "small", "fpn": False, "pyramid_channels": 64}, "pyramid_channels", "no pyramid"),
        (RetinaNet, {"backbone": "small", "pyramid_channels": 40}, "pyramid_channels", "multiple of 32"),
        (RetinaNet, {"backbone": "small", "freeze_backbone": 2}, "freeze_backbone", "of timm"),
        (FasterRCNN, {"backbone": "small", "freeze_norms": False}, "freeze_norms", "of timm"),
        (RetinaNet, {"backbone": "small", "backbone_lr_mult": 0.1}, "backbone_lr_mult", "of timm"),
        (RetinaNet, {"backbone": NAME, "backbone_lr_mult": -1.0}, "backbone_lr_mult", "0 or more"),
        (RetinaNet, {"backbone": NAME, "freeze_backbone": 6}, "freeze_backbone", "5 stages"),
        (RetinaNet, {"backbone": "resnet5"}, "backbone", "torchvision's are resnet50 and small"),
        (FasterRCNN, {"backbone": "vit_tiny_patch16_224"}, "backbone", "4, 8, 16 and 32"),
    ],
)
def test_options_that_do_not_go_together(kind: Any, options: dict[str, Any], argument: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        kind(3, AnchorOptions("model"), **options)
    assert caught.value.argument == argument


@pytest.mark.usefixtures("elsewhere")
def test_through_the_command_line(tmp_path: Path) -> None:
    """Trained from a file, which is not needed again, and resumed with more frozen."""
    network = timm.create_model(NAME)
    torch.save(network.state_dict(), "weights.pth")
    option = "--model.detector"
    args = ["fit", "--config", "small.yaml", "--config", "detector/retinanet_small_fpn.yaml", *SMALL_BATCHES, *QUIET]
    args += ["--data", "YOLODataModule", "--data.root", str(make_yolo(tmp_path / "set")), "--trainer.precision", "32"]
    args += ["--trainer.limit_val_batches", "0", f"{option}.backbone", NAME, f"{option}.pyramid_channels", "32"]
    args += ["--anchor_logger.animation", "false", f"{option}.backbone_weights", "weights.pth", "--trainer.max_steps"]
    main([*args, "2", f"{option}.freeze_backbone", "3", f"{option}.backbone_lr_mult", "0.1"])
    Path("weights.pth").unlink()
    checkpoint = str(next(Path("runs").rglob("last.ckpt")))
    body = load_task(checkpoint)[0].detector.model.backbone.body.network
    torch.testing.assert_close(body.conv_stem.weight, network.conv_stem.weight, rtol=0, atol=0)
    cli = main([*args, "3", f"{option}.freeze_backbone", "all", "--ckpt_path", checkpoint])
    assert cli.trainer.global_step == 3
