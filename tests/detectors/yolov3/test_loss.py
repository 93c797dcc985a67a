"""The loss over three levels: by hand, against what the C yolo layer computes, and by finite differences."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from anchor_lightning.anchors import AnchorOptions, assign_levels
from anchor_lightning.detectors import YOLOv3
from anchor_lightning.detectors.yolov3.loss import yolo_loss
from anchor_lightning.structures import DetectionBatch, Predictions, StepOptions
from tests.detectors.yolov2.test_loss import make_batch

STRIDES, NUM_CLASSES = (8, 16, 32), 3
SIDE = 64
ANCHORS = torch.tensor(
    [(6, 8), (12, 9), (10, 14), (20, 16), (16, 28), (30, 22), (40, 50), (60, 34), (62, 60)], dtype=torch.float64
)


def loss_of(raws: list[Tensor], batch: DetectionBatch, log_wh: Tensor, temperature: float = 0.0) -> dict[str, Tensor]:
    grids = [(raw.shape[-2], raw.shape[-1]) for raw in raws]
    assignments = assign_levels(log_wh, [3, 3, 3], batch.boxes_xyxy, batch.mask, grids, STRIDES, temperature)
    total: dict[str, Tensor] = {}
    for raw, stride, assignment, part in zip(raws, STRIDES, assignments, log_wh.split(3), strict=True):
        for name, term in yolo_loss(Predictions(raw, stride), batch, assignment, part).items():
            total[name] = total.get(name, torch.zeros(())) + term
    return total


def zeros(num_images: int = 1) -> list[Tensor]:
    return [torch.zeros(num_images, 3, 5 + NUM_CLASSES, SIDE // s, SIDE // s, dtype=torch.float64) for s in STRIDES]


def randoms() -> list[Tensor]:
    """With an anchor that predicts the third box of `BATCH` and does not answer for it: shape 0 in its cell."""
    generator = torch.Generator().manual_seed(3)
    raws = [0.4 * torch.randn(raw.shape, generator=generator, dtype=torch.float64) for raw in zeros(2)]
    raws[0][0, 0, :4, 5, 5] = torch.tensor([0.94, 0.79, math.log(11.5 / 6), math.log(9 / 8)])
    return raws


# The best shapes are 3 (stride 16), 8 and 1; the second image has no box.
BATCH = make_batch([[[8, 12, 27, 29], [1, 2, 60, 62], [40, 41, 51.5, 50]], []], [[1, 0, 2], []])


@pytest.mark.parametrize(("best", "level", "cell"), [(1, 0, 5 * 8 + 4), (4, 1, 2 * 4 + 2), (7, 2, 1 * 2 + 1)])
def test_a_box_belongs_to_the_level_of_its_best_shape(best: int, level: int, cell: int) -> None:
    """A box around (38, 44) with the sides of one of the shapes: by hand, with everything predicted 0."""
    w, h = ANCHORS[best].tolist()
    box = [38 - w / 2, 44 - h / 2, 38 + w / 2, 44 + h / 2]
    batch, grids = make_batch([[box]], [[2]], num_padded=1), [(SIDE // s, SIDE // s) for s in STRIDES]
    assignments = assign_levels(ANCHORS.log(), [3, 3, 3], batch.boxes_xyxy, batch.mask, grids, STRIDES)
    assert [float(a.delta.sum()) for a in assignments] == [float(index == level) for index in range(3)]
    assert int(assignments[level].delta[0, 0].argmax()) == best % 3 and int(assignments[level].cell[0, 0]) == cell
    terms, stride = loss_of(zeros(), batch, ANCHORS.log()), STRIDES[level]
    away = (torch.tensor([38.0, 44.0], dtype=torch.float64) / stride) % 1 - 0.5
    assert float(terms["loss_xy"]) == pytest.approx(0.5 * (2 - w * h / SIDE**2) * float(away.square().sum()))
    assert float(terms["loss_wh"]) == pytest.approx(0, abs=1e-12)
    assert float(terms["loss_class"]) == pytest.approx(NUM_CLASSES * math.log(2))
    # Every anchor says 0.5 and counts, but for those that are no positive and meet the box with an IoU above 0.7.
    centres = [((torch.arange(SIDE // s, dtype=torch.float64) + 0.5) * s) for s in STRIDES]
    anchors = [
        torch.tensor([[x, y, *ANCHORS[3 * index + k]]], dtype=torch.float64)
        for index in range(3)
        for k in range(3)
        for y in centres[index]
        for x in centres[index]
    ]
    ious = box_iou(torch.cat(anchors), torch.tensor([[38.0, 44.0, w, h]], dtype=torch.float64), fmt="cxcywh")[:, 0]
    own = sum(3 * (SIDE // s) ** 2 for s in STRIDES[:level]) + best % 3 * (SIDE // stride) ** 2 + cell
    counted = int((ious <= 0.7).sum()) + int(ious[own] > 0.7)
    assert float(terms["loss_objectness"]) == pytest.approx(counted * math.log(2))


def c_yolo_layers(raws: list[Tensor], batch: DetectionBatch) -> list[Tensor]:
    """The deltas of the three C layers at their outputs, by loops; boxes are centre and sides in pixels."""
    deltas = [torch.zeros_like(raw) for raw in raws]

    def predicted(level: int, b: int, n: int, j: int, i: int) -> Tensor:
        x, y, w, h = raws[level][b, n, :4, j, i]
        xy = (torch.stack([x, y]).sigmoid() + torch.tensor([i, j])) * STRIDES[level]
        return torch.cat([xy, torch.stack([w, h]).exp() * ANCHORS[3 * level + n]])

    for b in range(len(raws[0])):
        truths = box_convert(batch.boxes_xyxy[b][batch.mask[b]], "xyxy", "cxcywh")
        for level, raw in enumerate(raws):
            for n in range(3):
                for j in range(raw.shape[-2]):
                    for i in range(raw.shape[-1]):
                        own = predicted(level, b, n, j, i)[None]
                        best = float(box_iou(own, truths, fmt="cxcywh").max()) if len(truths) else 0.0
                        deltas[level][b, n, 4, j, i] = 0 if best > 0.7 else -raw[b, n, 4, j, i].sigmoid()
        for truth, label in zip(truths, batch.labels[b].tolist(), strict=False):
            centred = torch.cat([torch.zeros(9, 2), ANCHORS], dim=1)
            best_n = int(box_iou(centred, torch.cat([torch.zeros(2), truth[2:]])[None], fmt="cxcywh").argmax())
            level, n = divmod(best_n, 3)
            stride, raw, delta = STRIDES[level], raws[level], deltas[level]
            i, j = int(truth[0] / stride), int(truth[1] / stride)
            scale = 2 - truth[2:].prod() / SIDE**2
            own_xy, own_wh = raw[b, n, :2, j, i].sigmoid(), raw[b, n, 2:4, j, i]
            delta[b, n, :2, j, i] = scale * (truth[:2] / stride - torch.tensor([i, j]) - own_xy)
            delta[b, n, 2:4, j, i] = scale * ((truth[2:] / ANCHORS[best_n]).log() - own_wh)
            delta[b, n, 4, j, i] = 1 - raw[b, n, 4, j, i].sigmoid()
            for c in range(NUM_CLASSES):
                delta[b, n, 5 + c, j, i] = float(c == label) - raw[b, n, 5 + c, j, i].sigmoid()
    return deltas


def test_gradient_is_the_c_layers() -> None:
    """-delta, that of the centres times σ(1 - σ)."""
    raws = [raw.requires_grad_() for raw in randoms()]
    expected = [-delta / 2 for delta in c_yolo_layers([raw.detach() for raw in raws], BATCH)]
    assert any((delta[:, :, 4] == 0).any() for delta in expected), "the case must hold an anchor that is ignored"
    assert [int(delta[:, :, 5:].any(2).sum()) for delta in expected] == [1, 1, 1], "and a box on each level"
    gradients = torch.autograd.grad(torch.stack(list(loss_of(raws, BATCH, ANCHORS.log()).values())).sum(), raws)
    for raw, gradient, wanted in zip(raws, gradients, expected, strict=True):
        centre = raw.detach()[:, :, :2].sigmoid()
        wanted[:, :, :2] *= centre * (1 - centre)
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_shapes_gradient_by_finite_differences(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the wh term with δ held fixed; no other term moves the shapes."""
    raws, log_wh = randoms(), ANCHORS.log().requires_grad_()
    terms = loss_of(raws, BATCH, log_wh, temperature)
    (gradient,) = torch.autograd.grad(terms["loss_wh"], log_wh, retain_graph=True)
    others = terms["loss_xy"] + terms["loss_objectness"] + terms["loss_class"]
    assert not others.requires_grad or not torch.autograd.grad(others, log_wh, allow_unused=True)[0]
    fixed = assign_levels(
        ANCHORS.log(), [3] * 3, BATCH.boxes_xyxy, BATCH.mask, [(8, 8), (4, 4), (2, 2)], STRIDES, temperature
    )
    monkeypatch.setattr(f"{__name__}.assign_levels", lambda *_: fixed)
    step = 1e-5
    for index in range(18):
        change = torch.zeros(18, dtype=torch.float64)
        change[index] = step
        ends = [float(loss_of(raws, BATCH, ANCHORS.log() + sign * change.reshape(9, 2))["loss_wh"]) for sign in (1, -1)]
        assert float(gradient.flatten()[index]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)
    assert (gradient != 0).any(1).sum() == (3 if temperature == 0 else 9)


def test_without_boxes_everything_is_background() -> None:
    log_wh = ANCHORS.log().requires_grad_()
    terms = loss_of(zeros(), make_batch([[]], [[]]), log_wh)
    assert not any(terms[name].detach() for name in ("loss_xy", "loss_wh", "loss_class"))
    assert float(terms["loss_objectness"].detach()) == pytest.approx(3 * (64 + 16 + 4) * math.log(2))
    (gradient,) = torch.autograd.grad(sum(terms.values()), log_wh)  # type: ignore[arg-type]
    assert not gradient.any()


def test_soft_assignment_is_over_all_nine_shapes() -> None:
    """At a huge temperature δ is 1/9 on every level, and an anchor of the box's cells a negative with weight 8/9."""
    grids = [(8, 8), (4, 4), (2, 2)]
    found = assign_levels(ANCHORS.log(), [3] * 3, BATCH.boxes_xyxy, BATCH.mask, grids, STRIDES, 1e9)
    for assignment in found:
        torch.testing.assert_close(assignment.delta[0, 0], torch.full((3,), 1 / 9, dtype=torch.float64))
    assert not torch.cat([assignment.delta for assignment in found], -1)[~BATCH.mask].any()


def test_training_losses_are_the_sum_over_the_levels() -> None:
    torch.manual_seed(0)
    detector: Any = partial(YOLOv3, width=0.1)(NUM_CLASSES, AnchorOptions(init=ANCHORS.tolist()))
    batch = BATCH
    batch.images, batch.boxes_xyxy = torch.rand(2, 3, SIDE, SIDE), batch.boxes_xyxy.float()
    detector.eval()
    options = StepOptions(torch.tensor(0.0), "iou", 0.5, torch.tensor(3.0), 1, 0)
    terms = detector.training_losses(batch, options)
    levels = detector.network(batch.images)
    assert [(p.stride, tuple(p.raw.shape[1:])) for p in levels] == [(s, (3, 8, SIDE // s, SIDE // s)) for s in STRIDES]
    expected = loss_of([p.raw for p in levels], batch, detector.shapes.log_wh)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value.to(terms[name]))
    wh = batch.boxes_xyxy[0, :3, 2:] - batch.boxes_xyxy[0, :3, :2]
    nearest = (wh.log() - ANCHORS[[3, 8, 1]].log()).square().sum()
    assert float(terms["loss_clustering"].detach()) == pytest.approx(0.5 * float(nearest) / 6, rel=1e-4)
