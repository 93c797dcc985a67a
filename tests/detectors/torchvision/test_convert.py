"""Torchvision's detectors with learnable shapes beside the stock ones, bit for bit."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import (
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fcos_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    ssdlite320_mobilenet_v3_large,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator

from anchor_lightning.detectors.torchvision.convert import (
    CLUSTERING,
    anchor_shapes,
    freeze_anchors,
    is_detector,
    make_anchors_learnable,
)
from tests.helpers.made_detectors import (
    KINDS,
    TARGETS,
    losses_of,
    make_detector,
    make_images,
    predictions_of,
    same,
)

NUM_PER_LEVEL = {"c4": [9], "fpn": [3, 3], "retinanet": [6, 6], "ssd": [4, 6]}
MODELS = {
    "faster": lambda: fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.0, min_size=96, max_size=128
    ),
    "mask": lambda: maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        min_size=64,
        max_size=86,
        rpn_pre_nms_top_n_train=5,
        rpn_pre_nms_top_n_test=5,
        box_batch_size_per_image=2,
        box_score_thresh=0.0,
        box_detections_per_img=3,
    ),
    "retinanet": lambda: retinanet_resnet50_fpn_v2(
        weights=None, weights_backbone=None, num_classes=3, score_thresh=0.0, min_size=96, max_size=128
    ),
    "ssdlite": lambda: ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3, score_thresh=0.0
    ),
}


def trained(kind: str, init: Any = "model", steps: int = 4) -> Any:
    """A learnable detector after some SGD steps that moved its shapes."""
    model = make_detector(kind)
    shapes = make_anchors_learnable(model, init)
    others = [parameter for parameter in model.parameters() if parameter is not shapes.log_wh]
    optimizer = torch.optim.SGD([{"params": others, "lr": 0.01}, {"params": [shapes.log_wh], "lr": 0.3}])
    for _ in range(steps):
        optimizer.zero_grad()
        sum(losses_of(model).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert (shapes.wh - shapes.initial_wh).abs().max() > 1
    return model


def modules_of(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learn", [True, False])
def test_before_any_step_it_is_the_stock_model(kind: str, learn: bool) -> None:
    stock, model = make_detector(kind), make_detector(kind)
    make_anchors_learnable(model, learn=learn)
    expected, losses = losses_of(stock), losses_of(model)
    assert losses.pop(CLUSTERING).item() > 0
    assert same([losses], [expected])
    assert same(predictions_of(model), predictions_of(stock))
    freeze_anchors(model)
    assert same([losses_of(model)], [expected])
    assert same(predictions_of(model), predictions_of(stock))


@pytest.mark.parametrize("name", MODELS)
def test_torchvisions_own_models(name: str) -> None:
    """Built by torchvision, with its batch norms; two copies, because a forward pass moves their statistics."""
    torch.manual_seed(0)
    stock = MODELS[name]()
    targets = copy.deepcopy(TARGETS)
    if name == "mask":
        for target in targets:
            target["masks"] = torch.ones(len(target["boxes"]), 96, 128, dtype=torch.uint8)
    model = copy.deepcopy(stock)
    assert make_anchors_learnable(model) is anchor_shapes(model)
    expected, losses = losses_of(stock, targets), losses_of(model, targets)
    assert losses.pop(CLUSTERING).isfinite()
    assert same([losses], [expected])
    expected_boxes = predictions_of(stock)
    assert same(predictions_of(model), expected_boxes)
    assert freeze_anchors(model) is model
    assert modules_of(model) == modules_of(stock) and list(model.state_dict()) == list(stock.state_dict())
    assert same(predictions_of(model), expected_boxes)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_after_training(kind: str) -> None:
    model, stock = trained(kind), make_detector(kind)
    expected, losses = predictions_of(model), losses_of(model)
    wh = anchor_shapes(model).wh  # type: ignore[union-attr]
    freeze_anchors(model)
    assert anchor_shapes(model) is None
    assert modules_of(model) == modules_of(stock) and list(model.state_dict()) == list(stock.state_dict())
    assert same(predictions_of(model), expected)
    losses.pop(CLUSTERING)
    assert same([losses_of(model)], [losses]), "a frozen model trains on with the shapes as they are"
    again = make_anchors_learnable(model)
    torch.testing.assert_close(again.wh, wh)
    assert same(predictions_of(model), predictions_of(freeze_anchors(model)))


def test_frozen_detectors_load_without_this_package(tmp_path: Path) -> None:
    cases = []
    for kind in KINDS:
        model = trained(kind)
        found = predictions_of(model)
        cases.append((freeze_anchors(model), make_images(3), found))
    torch.save(cases, tmp_path / "cases.pt")
    script = """
import sys
sys.modules["anchor_lightning"] = None
import torch
torch.set_num_threads(1)
for model, images, expected in torch.load(sys.argv[1], weights_only=False):
    with torch.no_grad():
        for ours, theirs in zip(model(images), expected):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    print(type(model).__name__, model.training)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "cases.pt")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:4] == [f"{type(model).__name__} False" for model, *_ in cases]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_are_whole(kind: str, how: str) -> None:
    """A copy learns by itself: RetinaNet's head moves the copy's shapes, not others that look the same."""
    model = trained(kind)
    anchor_shapes(model).clustering_weight = 0.5  # type: ignore[union-attr]
    other = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    shapes, copied = anchor_shapes(model), anchor_shapes(other)
    assert shapes is not None and copied is not None and shapes is not copied
    assert torch.equal(copied.log_wh, shapes.log_wh) and copied.clustering_weight == shapes.clustering_weight == 0.5
    if kind == "retinanet":
        assert other.head.anchor_generator is other.anchor_generator
        assert "head.anchor_generator" not in dict(other.named_modules(remove_duplicate=False))
    model.zero_grad()
    other.zero_grad()
    losses = losses_of(other)
    assert same([losses_of(model)], [losses])
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert copied.log_wh.grad is not None and copied.log_wh.grad.any() and shapes.log_wh.grad is None
    assert same(predictions_of(freeze_anchors(other)), predictions_of(model))


@pytest.mark.parametrize("kind", KINDS)
def test_starts(kind: str) -> None:
    counts = NUM_PER_LEVEL[kind]
    stock = make_anchors_learnable(make_detector(kind))
    assert stock.num_per_level == counts

    identical = make_anchors_learnable(make_detector(kind), "identical").wh.split(counts)
    for level, original in zip(identical, stock.wh.split(counts), strict=True):
        side = original.log().mean().exp()
        torch.testing.assert_close(level, side.expand(len(level), 2))

    for level, original in zip(
        make_anchors_learnable(make_detector(kind), "uniform").wh.split(counts), stock.wh.split(counts), strict=True
    ):
        assert len(level.round(decimals=3).unique(dim=0)) == len(level)
        torch.testing.assert_close(level.min(), original.min())
        torch.testing.assert_close(level.max(), original.max())
        steps = level[:, 0].log().unique().diff()
        torch.testing.assert_close(steps[steps > 1e-4], steps.max().expand((steps > 1e-4).sum()), rtol=1e-3, atol=1e-4)

    boxes_wh = 10 * 8 ** torch.rand(200, 2)
    kmeans = make_anchors_learnable(make_detector(kind), "kmeans", boxes_wh=boxes_wh).wh
    assert (kmeans.prod(1).diff() > 0).all() and kmeans.shape == stock.wh.shape

    listed = [[20.0 + index, 30.0 - index] for index in range(sum(counts))]
    for init in (listed, torch.tensor(listed)):
        model = make_detector(kind)
        torch.testing.assert_close(make_anchors_learnable(model, init).wh, torch.tensor(listed))
        host = getattr(freeze_anchors(model), "rpn", model)
        if kind == "ssd":
            placed = torch.cat(host.anchor_generator._wh_pairs) * torch.tensor([128.0, 96.0])
        else:
            cells = torch.cat(host.anchor_generator.cell_anchors)
            placed = cells[:, 2:] - cells[:, :2]
        torch.testing.assert_close(placed, torch.tensor(listed))


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("yolov2-voc", "init: .*yolov2-voc"),
        ("kmeans", "boxes_wh"),
        ([[10.0, 20.0]] * 8, r"\(9, 2\).*\(8, 2\)"),
        ([[10.0, 20.0]] * 8 + [[0.0, 1.0]], "shape 8"),
    ],
)
def test_bad_starts_leave_the_model_alone(init: Any, message: str) -> None:
    stock, model = make_detector("c4"), make_detector("c4")
    with pytest.raises(ValueError, match=message):
        make_anchors_learnable(model, init)
    with pytest.raises(ValueError, match="8 distinct"):
        make_anchors_learnable(model, "kmeans", boxes_wh=torch.rand(8, 2) + 1)
    assert modules_of(model) == modules_of(stock) and anchor_shapes(model) is None


@pytest.mark.parametrize("kind", KINDS)
def test_twice_is_an_error(kind: str) -> None:
    model = make_detector(kind)
    with pytest.raises(ValueError, match="not learnable"):
        freeze_anchors(model)
    make_anchors_learnable(model)
    with pytest.raises(ValueError, match="already"):
        make_anchors_learnable(model)
    freeze_anchors(model)
    with pytest.raises(ValueError, match="not learnable"):
        freeze_anchors(model)


def test_what_is_no_detector_with_anchors() -> None:
    fcos = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    for module in (fcos, nn.Linear(2, 2)):
        assert not is_detector(module)
        for function in (make_anchors_learnable, freeze_anchors, anchor_shapes):
            with pytest.raises(TypeError, match=type(module).__name__):
                function(module)
    assert all(is_detector(make_detector(kind)) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_of_somebody_else_are_rejected(kind: str) -> None:
    """What they override would be lost."""
    stock: Any = DefaultBoxGenerator if kind == "ssd" else AnchorGenerator
    for part in ("generator", "learner"):
        model = make_detector(kind)
        host = getattr(model, "rpn", model)
        module = host.anchor_generator if part == "generator" else host.head if kind == "retinanet" else host
        assert part == "learner" or type(module) is stock
        module.__class__ = type("Mine", (type(module),), {})
        with pytest.raises(TypeError, match="Mine"):
            make_anchors_learnable(model)
