"""What moves the shapes of torchvision's detectors, against finite differences and numbers by hand."""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.anchors.iou import shape_iou
from anchor_lightning.detectors.torchvision.convert import (
    CLUSTERING,
    freeze_anchors,
    make_anchors_learnable,
)
from anchor_lightning.detectors.torchvision.generators import LearnableAnchors, LevelShapes
from tests.helpers.made_detectors import (
    BOX_LOSS,
    KINDS,
    Targets,
    losses_of,
    make_detector,
    make_targets,
    predictions_of,
    same,
)


def many_boxes() -> Targets:
    """Float64 boxes of all sizes, so that most shapes have a positive anchor; the third image has none."""
    wh = 10 * 8 ** torch.rand(2, 25, 2, generator=torch.Generator().manual_seed(2))
    corner = torch.rand(wh.shape, generator=torch.Generator().manual_seed(3)) * (torch.tensor([128.0, 96.0]) - wh)
    targets = make_targets(*torch.cat([corner, corner + wh], 2).tolist(), [])
    return [target | {"boxes": target["boxes"].double()} for target in targets]


class RecordedMatcher:
    """A matcher that keeps what it answered for each of two images, and answers the same ever after."""

    def __init__(self, matcher: Any) -> None:
        self.matcher, self.seen, self.calls = matcher, list[Tensor](), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.matcher, name)

    def __call__(self, quality: Tensor) -> Tensor:
        if self.calls < 2:
            self.seen.append(self.matcher(quality))
        self.calls += 1
        return self.seen[(self.calls - 1) % 2]


def no_change(model: Any) -> None:
    """Leaves a detector as it is."""


def coder_of_ssd(model: Any) -> None:
    model.rpn.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))


def box_loss(name: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.head.regression_head._loss_type = name

    return change


CASES = [(kind, no_change, temperature) for kind in KINDS for temperature in (0.0, 0.3)] + [("c4", coder_of_ssd, 0.0)]
CASES += [("retinanet", box_loss(name), 0.0) for name in ("smooth_l1", "diou", "giou")]


@pytest.mark.parametrize(("kind", "change", "temperature"), CASES)
def test_gradient_is_that_of_the_outputs(kind: str, change: Callable[[Any], None], temperature: float) -> None:
    """Finite differences: of the loss in Δw, Δh of a shape's positives, weighted in a loop of our own (Eq. 9)."""
    model = make_detector(kind, clip=False)
    change(model)
    shapes = make_anchors_learnable(model)
    model.double()
    for tensor in (shapes.log_wh, shapes.initial_log_wh, shapes.start, shapes.unit):  # no conversion makes them double
        tensor.data = tensor.data.double()
    shapes.clustering_weight, shapes.temperature = 2 / 3, temperature
    shapes.log_wh.data += 0.1 * torch.randn(shapes.log_wh.shape, dtype=torch.float64)
    host = getattr(model, "rpn", model)
    generator = host.anchor_generator
    matcher = host.proposal_matcher = RecordedMatcher(host.proposal_matcher)
    targets = many_boxes()
    losses = losses_of(model, targets)
    found = torch.autograd.grad(losses[BOX_LOSS[kind]], shapes.log_wh, retain_graph=True)[0]
    clustering = torch.autograd.grad(losses[CLUSTERING], shapes.log_wh)[0]

    weights, expected_clustering = by_loops(shapes, generator, targets, matcher.seen, kind == "retinanet")
    torch.testing.assert_close(clustering, 2 / 3 * expected_clustering)
    numeric, shift = torch.zeros_like(found), torch.zeros(3, *weights[0].shape, 2, dtype=torch.float64)
    coder: Any = host.head.regression_head.box_coder if kind == "retinanet" else host.box_coder
    learn = generator.learn
    generator.learn = lambda regression, *args, **by: (
        regression + torch.nn.functional.pad(shift, (2, 0)),
        learn(regression, *args, **by)[1],
    )
    for index in range(found.numel()):
        k, side = divmod(index, 2)
        for move in (1e-6, -1e-6):
            shift.zero_()
            for image, weight in enumerate(weights):
                of_shape = generator.spread(torch.arange(len(shapes.log_wh))[:, None])[:, 0] == k
                shift[image, :, side] = move * coder.weights[2 + side] * weight * of_shape
            numeric[k, side] += losses_of(model, targets)[BOX_LOSS[kind]].item() / (2 * move)
    assert found.any(1).sum() >= 5, "the case must reach most shapes"
    torch.testing.assert_close(found, numeric, rtol=1e-5, atol=1e-7)


def by_loops(
    shapes: LevelShapes, generator: LearnableAnchors, targets: Targets, seen: list[Tensor], by_image: bool
) -> tuple[list[Tensor], Tensor]:
    """Weights of all anchors of three images, the last without boxes, and the gradient of the clustering term."""
    log_wh = shapes.log_wh.detach()
    shape_of = generator.spread(torch.arange(len(log_wh))[:, None])[:, 0].tolist()
    weights, gradient = [torch.zeros(len(shape_of), dtype=torch.float64) for _ in targets], torch.zeros_like(log_wh)
    matched = [[(n, shape_of[n], m) for n, m in enumerate(of_image.tolist()) if m >= 0] for of_image in seen]
    num_boxes = sum(len({m for _, _, m in positives}) for positives in matched)
    for target, positives, weight in zip(targets, matched, weights, strict=False):
        total = len(positives) * len(targets) if by_image else sum(map(len, matched))
        for box in {m for _, _, m in positives}:
            left, top, right, bottom = target["boxes"][box].tolist()
            wh = torch.tensor([right - left, bottom - top], dtype=torch.float64)
            own: dict[int, list[int]] = {}
            for n, k, m in positives:
                if m == box:
                    own.setdefault(k, []).append(n)
            for k, delta in by_hand(shapes, wh, own).items():
                gradient[k] += delta * (log_wh[k] - wh.log()) / num_boxes
                for n in own.get(k, []):
                    weight[n] = delta * total / num_boxes / len(own[k])
    return weights, gradient


def by_hand(shapes: LevelShapes, wh: Tensor, positive: Iterable[int]) -> dict[int, float]:
    """δ of the shapes that answer for a box (2,): of the positive ones, softly of all of their levels."""
    iou = shape_iou(wh, shapes.log_wh.detach().exp()).tolist()
    temperature = float(shapes.temperature)
    if not temperature:
        return {max(positive, key=lambda k: iou[k]): 1.0}
    levels = {int(shapes.level[k]) for k in positive}
    nearness = {k: math.exp(iou[k] / temperature) for k, level in enumerate(shapes.level.tolist()) if level in levels}
    return {k: value / sum(nearness.values()) for k, value in nearness.items()}


def test_a_box_counts_once_where_the_loss_draws_from_the_positives() -> None:
    """On average over the draws: of an image of six positives two are drawn, of one with a single positive that."""
    model = make_detector("c4")
    shapes = make_anchors_learnable(model, [[float(10 * side), float(10 * side)] for side in range(1, 10)])
    losses_of(model)  # an image has 6 x 8 places of the nine shapes
    generator, weights = model.rpn.anchor_generator, (1.0, 1.0, 2.0, 2.0)
    matched = [torch.full((48 * 9,), -1), torch.full((48 * 9,), -1)]
    matched[0][[0, 9, 18, 27]], matched[0][[1, 10]], matched[1][2] = 0, 1, 0  # by four of shape 0, two of 1, one of 2
    boxes = [torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 21.0, 21.0]]), torch.tensor([[0.0, 0.0, 30.0, 30.0]])]
    regression = torch.zeros(2, 48 * 9, 4)
    moved, _ = generator.learn(regression, matched, boxes, weights, False, 2)
    chances = (2 / 6, 1.0)
    drawn = torch.stack([p * out[of >= 0].sum() for p, out, of in zip(chances, moved, matched, strict=True)]).sum()
    (gradient,) = torch.autograd.grad(drawn, shapes.log_wh)
    expected = torch.zeros(9, 2)
    expected[:3] = 2.0 * 3 / 3  # the coder's weight, three drawn, three boxes
    torch.testing.assert_close(gradient, expected)
    model.rpn.fg_bg_sampler.batch_size_per_image, handed = 10, list[Any]()
    learn = generator.learn

    def note(*args: Any) -> Any:
        handed.append(args[-1])
        return learn(*args)

    generator.learn = note
    losses_of(model)
    assert handed == [5], "half of what the first stage draws of an image may be positives"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_moves_the_shapes(kind: str) -> None:
    model = make_detector(kind)
    shapes = make_anchors_learnable(model)
    for name, loss in losses_of(model).items():
        (gradient,) = torch.autograd.grad(
            loss, shapes.log_wh, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert gradient.any() == (name in (BOX_LOSS[kind], CLUSTERING)), name


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_no_leak_through_pooling_written_in_python(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU deterministic algorithms take a RoIAlign that is differentiable at the proposals as well."""
    pooling = sys.modules["torchvision.ops.roi_align"]
    model = make_detector(kind)
    shapes = make_anchors_learnable(model)
    monkeypatch.setattr(pooling, "_has_ops", lambda: False)
    monkeypatch.setattr(pooling, "is_compile_supported", lambda device: True, raising=False)
    monkeypatch.setattr(pooling, "_roi_align", inspect.unwrap(pooling._roi_align))
    features = torch.rand(1, 8, 6, 8)
    rois = torch.tensor([[0.0, 3.1, 3.2, 40.3, 50.4]], requires_grad=True)
    pooling.roi_align(features, rois, 7, 1 / 16, 2).sum().backward()
    assert rois.grad is not None and rois.grad.any(), "the case must be able to leak"
    losses = losses_of(model)
    second_stage = losses["loss_classifier"] + losses["loss_box_reg"]
    (gradient,) = torch.autograd.grad(second_stage, shapes.log_wh, allow_unused=True)
    assert gradient is None or not gradient.any()


@pytest.mark.parametrize(("weight", "change"), [(0.4, no_change), (1.0, coder_of_ssd), (0.0, no_change)])
def test_clustering_by_hand(weight: float, change: Callable[[Any], None]) -> None:
    """Two boxes about points of the grid, each of which meets the one 40 x 40 anchor there best, alone."""
    model = make_detector("c4")
    model.rpn.anchor_generator = AnchorGenerator(((40,),), ((1.0,),))
    model.rpn.head = type(model.rpn.head)(8, 1)
    change(model)
    shapes = make_anchors_learnable(model)
    assert shapes.clustering_weight == 1
    shapes.clustering_weight = weight
    targets = make_targets([[32 - 15.0, 48 - 25, 32 + 15, 48 + 25]], [[64 - 30.0, 48 - 8, 64 + 30, 48 + 8]])
    loss = losses_of(model, targets)[CLUSTERING]
    ratios = torch.tensor([[30 / 40, 50 / 40], [60 / 40, 16 / 40]]).log()
    torch.testing.assert_close(loss, weight * ratios.square().sum() / (2 * 2))
    (gradient,) = torch.autograd.grad(loss, shapes.log_wh)
    torch.testing.assert_close(gradient[0], -weight * ratios.sum(0) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_boxes(kind: str) -> None:
    """None at all: gradients of 0, which data parallelism waits for. One of two: those of the other alone."""
    model = make_detector(kind)
    shapes = make_anchors_learnable(model)
    box = [[20.0, 10.0, 60.0, 80.0]]
    for targets in (make_targets([], []), make_targets(box, []), make_targets([], box)):
        (gradient,) = torch.autograd.grad(sum(losses_of(model, targets).values()), shapes.log_wh)  # type: ignore[arg-type]
        assert gradient.isfinite().all() and gradient.any() == any(len(target["boxes"]) for target in targets)


@pytest.mark.parametrize("kind", KINDS)
def test_learns_in_bfloat16(kind: str) -> None:
    model = make_detector(kind)
    shapes = make_anchors_learnable(model)
    placed: list[Tensor] = []
    getattr(model, "rpn", model).anchor_generator.register_forward_hook(lambda module, inputs, out: placed.extend(out))
    optimizer = torch.optim.SGD([shapes.log_wh], 1e-3)
    losses_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(losses_of(model).values())
    assert torch.equal(placed[0], placed[2]), "no side or centre is rounded"
    loss.backward()  # type: ignore[union-attr]
    optimizer.step()
    assert all(anchors.dtype == torch.float32 for anchors in placed) and placed
    assert shapes.log_wh.dtype == torch.float32 and not torch.equal(shapes.wh, shapes.initial_wh)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(loss.isfinite() for loss in losses_of(model).values())
    sides = torch.stack([(a[:, 2:] - a[:, :2]).amin(0) for a in placed[-2:]])
    torch.testing.assert_close(sides, shapes.wh.amin(0).expand(2, 2), rtol=1e-4, atol=1e-4)


def test_a_clipped_shape_comes_back() -> None:
    """SSD clips at the image, where there would be no gradient: shapes stay within it, and shrink where boxes ask."""
    model = make_detector("ssd")
    shapes = make_anchors_learnable(model)
    limit = torch.tensor([128.0, 96.0])
    torch.testing.assert_close(shapes.wh[5], limit)  # a share of 1.02
    shapes.log_wh.data[5] += 0.5
    targets = make_targets([[5.0, 4.0, 121.0, 90.0]])
    expected = predictions_of(model)
    assert model.anchor_generator.pairs().max() <= 1, "nothing is larger than the image in inference either"
    assert same(predictions_of(freeze_anchors(copy.deepcopy(model))), expected)
    losses = losses_of(model, targets)
    torch.testing.assert_close(shapes.wh[5], limit, rtol=1e-6, atol=0)
    assert (shapes.wh <= limit * (1 + 1e-6)).all()
    (gradient,) = torch.autograd.grad(losses[CLUSTERING], shapes.log_wh)
    assert (gradient[5] > 0).all()
    shapes.log_wh.data -= 0.1 * gradient
    losses_of(model, targets)
    assert (shapes.wh[5] < limit).all()


def test_shapes_are_kept_with_the_weights() -> None:
    model = make_detector("retinanet")
    shapes = make_anchors_learnable(model)
    shapes.log_wh.data -= 0.1
    other = make_detector("retinanet", seed=1)
    loaded = make_anchors_learnable(other, "uniform")
    other.load_state_dict(model.state_dict())
    assert torch.equal(loaded.wh, shapes.wh) and torch.equal(loaded.initial_wh, shapes.initial_wh)
    assert same([losses_of(model)], [losses_of(other)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_identical_shapes_learn_the_boxes(kind: str, weight: float) -> None:
    """One square a level becomes wide as the boxes are: by both terms, and by the box loss alone."""
    targets = make_targets([[5.3, 8.1, 53.9, 30.7], [70.2, 60.3, 118.7, 83.1], [64.1, 3.2, 113.3, 25.4]])
    boxes_wh = targets[0]["boxes"][:, 2:] - targets[0]["boxes"][:, :2]
    model = make_detector(kind)
    shapes = make_anchors_learnable(model, "identical")
    shapes.clustering_weight = weight
    before = mean_best_iou(boxes_wh, shapes.wh)
    others = [parameter for parameter in model.parameters() if parameter is not shapes.log_wh]
    rate = 2.0 if kind in ("c4", "fpn") and not weight else 0.1
    optimizer = torch.optim.SGD([{"params": others, "lr": 1e-3}, {"params": [shapes.log_wh], "lr": rate}])
    for _ in range(25):
        optimizer.zero_grad()
        sum(losses_of(model, targets).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert mean_best_iou(boxes_wh, shapes.wh) > before + 0.1
