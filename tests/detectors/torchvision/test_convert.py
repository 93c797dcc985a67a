"""Torchvision's detectors with learnable shapes beside the stock ones, bit for bit."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import (
    fcos_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    ssdlite320_mobilenet_v3_large,
)

from anchor_lightning.detectors.torchvision.convert import (
    CLUSTERING,
    anchor_shapes,
    freeze_anchors,
    is_detector,
    make_anchors_learnable,
)
from anchor_lightning.errors import UserError
from tests.helpers.made_detectors import KINDS, TARGETS, losses_of, make_detector, predictions_of, same

NUM_PER_LEVEL = {"c4": [9], "fpn": [3, 3], "retinanet": [6, 6], "ssd": [4, 6]}
RANDOM: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 3}
MODELS: dict[str, Any] = {kind: partial(make_detector, kind) for kind in KINDS} | {
    "mask": partial(
        maskrcnn_resnet50_fpn,
        **RANDOM,
        min_size=64,
        max_size=86,
        rpn_pre_nms_top_n_train=5,
        rpn_pre_nms_top_n_test=5,
        box_batch_size_per_image=2,
        box_score_thresh=0.0,
        box_detections_per_img=3,
    ),
    "retinanet_v2": partial(retinanet_resnet50_fpn_v2, **RANDOM, score_thresh=0.0, min_size=96, max_size=128),
    "ssdlite": partial(ssdlite320_mobilenet_v3_large, **RANDOM, score_thresh=0.0),
}


def trained(kind: str) -> Any:
    """A learnable detector after some SGD steps that moved its shapes."""
    model = make_detector(kind)
    shapes = make_anchors_learnable(model)
    others = [parameter for parameter in model.parameters() if parameter is not shapes.log_wh]
    optimizer = torch.optim.SGD([{"params": others, "lr": 0.01}, {"params": [shapes.log_wh], "lr": 0.3}])
    for _ in range(4):
        optimizer.zero_grad()
        sum(losses_of(model).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert (shapes.wh - shapes.initial_wh).abs().max() > 1
    return model


def modules_of(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize("name", MODELS)
def test_before_any_step_it_is_the_stock_model(name: str) -> None:
    """The last three are built by torchvision, with batch norms: two copies, as a forward moves their statistics."""
    torch.manual_seed(0)
    stock, targets = MODELS[name](), copy.deepcopy(TARGETS)
    if name == "mask":
        for target in targets:
            target["masks"] = torch.ones(len(target["boxes"]), 96, 128, dtype=torch.uint8)
    model = copy.deepcopy(stock)
    assert make_anchors_learnable(model) is anchor_shapes(model)
    losses = losses_of(model, targets)
    assert losses.pop(CLUSTERING) > 0
    assert same([losses], [losses_of(stock, targets)])
    expected = predictions_of(stock)
    assert same(predictions_of(model), expected)
    assert freeze_anchors(model) is model
    assert modules_of(model) == modules_of(stock) and list(model.state_dict()) == list(stock.state_dict())
    assert same(predictions_of(model), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_after_training(kind: str) -> None:
    model, stock = trained(kind), make_detector(kind)
    expected, losses = predictions_of(model), losses_of(model)
    wh = anchor_shapes(model).wh  # type: ignore[union-attr]
    freeze_anchors(model)
    assert anchor_shapes(model) is None
    assert modules_of(model) == modules_of(stock) and list(model.state_dict()) == list(stock.state_dict())
    assert same(predictions_of(model), expected)
    pickled = pickle.dumps(model)
    assert b"anchor_lightning" not in pickled, "it loads without this package"
    assert same(predictions_of(pickle.loads(pickled)), expected)
    losses.pop(CLUSTERING)
    assert same([losses_of(model)], [losses]), "a frozen model trains on with the shapes as they are"
    again = make_anchors_learnable(model)
    torch.testing.assert_close(again.wh, wh)
    assert same(predictions_of(model), predictions_of(freeze_anchors(model)))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_whole(kind: str) -> None:
    """A copy learns by itself: RetinaNet's head moves the copy's shapes, not others that look the same."""
    model = trained(kind)
    shapes = anchor_shapes(model)
    assert shapes is not None
    shapes.clustering_weight = 0.5
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied = anchor_shapes(other)
        assert copied is not None and copied is not shapes and copied.clustering_weight == 0.5
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
    assert stock.num_per_level == counts and stock.log_wh.requires_grad
    assert not make_anchors_learnable(make_detector(kind), learn=False).log_wh.requires_grad
    identical, uniform = (
        make_anchors_learnable(make_detector(kind), init).wh.split(counts) for init in ("identical", "uniform")
    )
    for original, level, lattice in zip(stock.wh.split(counts), identical, uniform, strict=True):
        square = original.log().mean().exp().expand(len(level), 2)
        torch.testing.assert_close(level, square, rtol=0.0021, atol=0)
        assert (level.prod(1).diff() > 0).all() and torch.equal(level[:, 0], level[:, 1])
        low, high = original.min(), original.max()
        sides = torch.stack([low, (low * high).sqrt(), high]) if len(level) > 4 else torch.stack([low, high])
        torch.testing.assert_close(lattice, torch.cartesian_prod(sides, sides)[: len(level)])

    kmeans = make_anchors_learnable(make_detector(kind), "kmeans", boxes_wh=10 * 8 ** torch.rand(200, 2)).wh
    assert (kmeans.prod(1).diff() > 0).all() and kmeans.shape == stock.wh.shape

    listed = [[20.0 + index, 30.0 - index] for index in range(sum(counts))]
    model = make_detector(kind)
    torch.testing.assert_close(make_anchors_learnable(model, listed).wh, torch.tensor(listed))
    generator = getattr(freeze_anchors(model), "rpn", model).anchor_generator
    if kind == "ssd":
        placed = torch.cat(generator._wh_pairs) * torch.tensor([128.0, 96.0])
    else:
        cells = torch.cat(generator.cell_anchors)
        placed = cells[:, 2:] - cells[:, :2]
    torch.testing.assert_close(placed, torch.tensor(listed))


@pytest.mark.parametrize(
    ("init", "boxes_wh", "message"),
    [
        ("yolov2-voc", None, "init: .*yolov2-voc"),
        ("kmeans", None, "boxes_wh"),
        ("kmeans", torch.rand(8, 2) + 1, "8 distinct .* give more data, or start from model or uniform"),
        ([[10.0, 20.0]] * 8, None, r"\(9, 2\).*\(8, 2\)"),
        ([[10.0, 20.0]] * 8 + [[0.0, 1.0]], None, "shape 8"),
    ],
)
def test_bad_starts_leave_the_model_alone(init: Any, boxes_wh: Any, message: str) -> None:
    stock, model = make_detector("c4"), make_detector("c4")
    with pytest.raises(ValueError, match=message):
        make_anchors_learnable(model, init, boxes_wh=boxes_wh)
    assert modules_of(model) == modules_of(stock) and anchor_shapes(model) is None


def test_twice_is_an_error() -> None:
    model = make_detector("retinanet")
    with pytest.raises(ValueError, match="not learnable"):
        freeze_anchors(model)
    make_anchors_learnable(model)
    with pytest.raises(ValueError, match="already"):
        make_anchors_learnable(model)


@pytest.mark.parametrize("name", ["mask", "ssdlite"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torchscript_takes_the_frozen_model_and_says_so_of_the_learnable_one(name: str) -> None:
    model = MODELS[name]()
    make_anchors_learnable(model)
    with pytest.raises(UserError, match=r"TorchScript .*; call freeze_anchors\(model\) first"):
        torch.jit.script(model)
    torch.jit.script(freeze_anchors(model))


def test_what_is_no_detector_with_anchors() -> None:
    with torch.device("meta"):
        fcos = fcos_resnet50_fpn(**RANDOM)
    for module in (fcos, nn.Linear(2, 2)):
        assert not is_detector(module)
        for function in (make_anchors_learnable, freeze_anchors, anchor_shapes):
            with pytest.raises(TypeError, match=type(module).__name__):
                function(module)
    assert all(is_detector(make_detector(kind)) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_of_somebody_else_are_rejected(kind: str) -> None:
    """What they override would be lost."""
    for part in ("generator", "learner"):
        model = make_detector(kind)
        host = getattr(model, "rpn", model)
        module = host.anchor_generator if part == "generator" else host.head if kind == "retinanet" else host
        module.__class__ = type("Mine", (type(module),), {})
        with pytest.raises(TypeError, match="Mine"):
            make_anchors_learnable(model)
