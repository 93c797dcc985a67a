"""The region loss against a plain-loop transcription of what the C region layer computes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert, box_iou

from anchor_lightning.anchors import assign
from anchor_lightning.detectors.yolo.head import NUM_BOX_CHANNELS
from anchor_lightning.detectors.yolo.loss import overlaps_ground_truth
from anchor_lightning.detectors.yolov2.loss import IGNORE_IOU, region_loss
from anchor_lightning.structures import DetectionBatch, Predictions

STRIDE = 32
ANCHORS = torch.tensor([(40.0, 50.0), (100.0, 60.0), (70.0, 160.0)], dtype=torch.float64)
NUM_CLASSES = 4
LOG_WH = ANCHORS.log()


def make_batch(boxes: list[list[list[float]]], labels: list[list[int]], num_padded: int = 2) -> DetectionBatch:
    """A batch of float64 boxes, padded by more rows than needed."""
    rows = [torch.tensor(of_image, dtype=torch.float64).reshape(-1, 4) for of_image in boxes]
    given = [torch.tensor(of_image, dtype=torch.int64) for of_image in labels]
    label = pad(pad_sequence(given, batch_first=True, padding_value=-1), (0, num_padded), value=-1)
    boxes_xyxy = pad(pad_sequence(rows, batch_first=True), (0, 0, 0, num_padded))
    empty = torch.zeros(len(boxes))
    return DetectionBatch(empty, boxes_xyxy, label, label >= 0, empty, empty, empty)


def iou(a: Tensor, b: Tensor) -> float:
    return float(box_iou(a[None], b[None], fmt="cxcywh"))


def c_region_layer(raw: Tensor, batch: DetectionBatch, prior: bool) -> Tensor:
    """The deltas of the C layer (the negative gradient of its cost) at its activated outputs (B, A, 5 + C, H, W).

    Loops over images, cells, anchors and ground truth boxes as the C code does; a delta is overwritten, not added to.
    Boxes are centre and sides in cells.
    """
    num_images, num_anchors, _, height, width = raw.shape
    delta, anchors, zeros = torch.zeros_like(raw), ANCHORS / STRIDE, torch.zeros(2)

    def predicted(b: int, n: int, j: int, i: int) -> Tensor:
        xy, wh = raw[b, n, :4, j, i].split(2)
        return torch.cat([xy.sigmoid() + torch.tensor([i, j]), wh.exp() * anchors[n]])

    def box_delta(b: int, n: int, j: int, i: int, truth: Tensor, scale: float | Tensor) -> None:
        xy, wh = raw[b, n, :4, j, i].split(2)
        delta[b, n, :2, j, i] = scale * (truth[:2] - torch.tensor([i, j]) - xy.sigmoid())
        delta[b, n, 2:4, j, i] = scale * ((truth[2:] / anchors[n]).log() - wh)

    for b in range(num_images):
        truths = box_convert(batch.boxes_xyxy[b][batch.mask[b]], "xyxy", "cxcywh") / STRIDE
        for j in range(height):
            for i in range(width):
                for n in range(num_anchors):
                    best = max((iou(predicted(b, n, j, i), truth) for truth in truths), default=0.0)
                    delta[b, n, 4, j, i] = 0.0 if best > 0.6 else 1.0 * (0 - raw[b, n, 4, j, i].sigmoid())
                    if prior:
                        own = torch.cat([torch.tensor([i + 0.5, j + 0.5]), anchors[n]])
                        box_delta(b, n, j, i, own, 0.01)
        for truth, label in zip(truths, batch.labels[b].tolist(), strict=False):
            i, j = int(truth[0]), int(truth[1])
            best_iou, best_n = 0.0, 0
            for n in range(num_anchors):
                shape_iou = iou(torch.cat([zeros, anchors[n]]), torch.cat([zeros, truth[2:]]))
                if shape_iou > best_iou:
                    best_iou, best_n = shape_iou, n
            box_delta(b, best_n, j, i, truth, 2 - truth[2:].prod() / (width * height))
            rescored = iou(predicted(b, best_n, j, i), truth)
            delta[b, best_n, 4, j, i] = 5.0 * (rescored - raw[b, best_n, 4, j, i].sigmoid())
            exponentials = [math.exp(logit) for logit in raw[b, best_n, NUM_BOX_CHANNELS:, j, i]]
            for c, value in enumerate(exponentials):
                delta[b, best_n, NUM_BOX_CHANNELS + c, j, i] = (c == label) - value / sum(exponentials)
    return delta


def loss_of(
    raw: Tensor, batch: DetectionBatch, log_wh: Tensor, *, prior: float = 0.0, temperature: float = 0.0
) -> dict[str, Tensor]:
    grid = (raw.shape[-2], raw.shape[-1])
    assignment = assign(log_wh, batch.boxes_xyxy, batch.mask, grid, STRIDE, temperature)
    return region_loss(Predictions(raw, STRIDE), batch, assignment, log_wh, prior)


def gradient_of(loss: Any, at: Tensor) -> Tensor:
    """Zeros where they do not meet."""
    (gradient,) = torch.autograd.grad(loss, at, retain_graph=True, materialize_grads=True, allow_unused=True)
    return gradient


# A 4 x 6 grid (192 x 128 pixels), so that rows and columns cannot be mistaken for each other; the second image has no
# box, the third has boxes at the edge.
BOXES = [
    [[20.0, 30.0, 61.0, 79.0], [100.0, 10.0, 190.0, 75.0], [60.0, 0.0, 130.0, 128.0]],
    [],
    [[0.0, 90.0, 38.0, 128.0], [150.0, 60.0, 192.0, 128.0]],
]
BATCH = make_batch(BOXES, [[0, 3, 2], [], [1, 1]])


@pytest.fixture
def raw() -> Tensor:
    """Random predictions, some of which meet a ground truth so well that they are ignored."""
    generator = torch.Generator().manual_seed(3)
    raw = torch.randn(3, len(ANCHORS), NUM_BOX_CHANNELS + NUM_CLASSES, 4, 6, generator=generator, dtype=torch.float64)
    raw[:, :, :4] *= 0.3
    # (cell row 1, column 1) of the first image lies at the middle of the first box, whose best anchor is 0: make anchor
    # 2 there predict 0.65 of the same box, so that it is a negative that must be ignored.
    raw[0, 2, :4, 1, 1] = torch.tensor([-1.0, 0.8, math.log(0.65 * 41 / 70), math.log(49 / 160)], dtype=torch.float64)
    # Anchor 1 there covers 0.55 of it, and must not be ignored.
    raw[0, 1, :4, 1, 1] = torch.tensor([-1.0, 0.8, math.log(0.55 * 41 / 100), math.log(49 / 60)], dtype=torch.float64)
    return raw.requires_grad_()


@pytest.mark.parametrize("prior", [False, True])
def test_gradient_is_the_c_layers(raw: Tensor, prior: bool) -> None:
    """-delta, times σ(1 - σ) for xy and objectness."""
    expected = -c_region_layer(raw.detach(), BATCH, prior) / 3
    assert (expected[:, :, 4] == 0).any(), "the case must hold an anchor that is ignored"
    assert expected[:, :, NUM_BOX_CHANNELS:].any(2).sum() == sum(map(len, BOXES)), "and no two boxes on one anchor"
    activated = raw.detach()[:, :, [0, 1, 4]].sigmoid()
    expected[:, :, [0, 1, 4]] *= activated * (1 - activated)
    gradient = gradient_of(sum(loss_of(raw, BATCH, LOG_WH, prior=float(prior)).values()), raw)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_an_iou_of_just_the_threshold_is_a_negative() -> None:
    boxes = torch.tensor([[16.0, 16, 12, 20], [16, 16, 13, 20]]).reshape(1, 2, 4, 1, 1)  # IoU 0.6 and 0.65
    found = overlaps_ground_truth(boxes, torch.tensor([[[6.0, 6, 26, 26]]]), torch.tensor([[True]]), IGNORE_IOU)
    assert found.flatten().tolist() == [False, True]


def test_colliding_boxes_both_count() -> None:
    """Two equal boxes weigh twice what one does in every positive term; the C code would keep only the last."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(1, 3, NUM_BOX_CHANNELS + NUM_CLASSES, 4, 6, generator=generator, dtype=torch.float64)
    box = [20.0, 30.0, 61.0, 79.0]
    one = loss_of(raw, make_batch([[box]], [[2]]), LOG_WH)
    two = loss_of(raw, make_batch([[box, box]], [[2, 2]]), LOG_WH)
    for name in ("loss_xy", "loss_wh", "loss_class"):
        assert float(two[name]) == pytest.approx(2 * float(one[name]), rel=1e-12)


def test_soft_assignment_by_hand() -> None:
    """At a huge temperature every anchor of the cell has δ = 1/3, and is a negative with weight 1 - 1/3."""
    raw = torch.zeros(1, 3, NUM_BOX_CHANNELS + NUM_CLASSES, 1, 1, dtype=torch.float64)
    wh = torch.tensor([(32.0, 32.0)] * 3, dtype=torch.float64)
    batch = make_batch([[[6.0, 8.0, 22.0, 24.0]]], [[0]], num_padded=0)  # 16 x 16 around (14, 16)
    terms = loss_of(raw, batch, wh.log(), temperature=1e9)
    scale = 2 - 256 / 1024
    # Every anchor predicts σ(0) = 0.5 of the cell, a 32 x 32 box around (16, 16): IoU 256 / 1024.
    assert float(terms["loss_xy"]) == pytest.approx(0.5 * scale * (14 / 32 - 0.5) ** 2)
    assert float(terms["loss_wh"]) == pytest.approx(0.5 * scale * 2 * math.log(2) ** 2)
    positives = 0.5 * 5 * 3 * (1 / 3) * (0.25 - 0.5) ** 2
    negatives = 0.5 * 3 * (2 / 3) * 0.5**2
    assert float(terms["loss_objectness"]) == pytest.approx(positives + negatives)
    assert float(terms["loss_class"]) == pytest.approx(math.log(NUM_CLASSES))


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_shape_gradient_is_equation_9(raw: Tensor, temperature: float) -> None:
    """Of the wh term, with δ held fixed; the other terms do not move the shapes."""
    log_wh = LOG_WH.clone().requires_grad_()
    terms = loss_of(raw, BATCH, log_wh, prior=1.0, temperature=temperature)
    assignment = assign(LOG_WH, BATCH.boxes_xyxy, BATCH.mask, (4, 6), STRIDE, temperature)
    expected = torch.zeros_like(log_wh)
    for b, m in BATCH.mask.nonzero().tolist():
        cell = int(assignment.cell[b, m])
        wh = BATCH.boxes_xyxy[b, m, 2:] - BATCH.boxes_xyxy[b, m, :2]
        scale = 2 - wh.prod() / (192 * 128)
        for k in range(len(ANCHORS)):
            residual = raw.detach()[b, k, 2:4, cell // 6, cell % 6] + LOG_WH[k] - wh.log()
            expected[k] += assignment.delta[b, m, k] * scale * residual / 3
    torch.testing.assert_close(gradient_of(terms.pop("loss_wh"), log_wh), expected)
    assert not gradient_of(sum(terms.values()), log_wh).any()


def test_without_boxes_everything_is_background(raw: Tensor) -> None:
    """No ground truth: no box or class loss, objectness is pushed down everywhere, the shapes get a gradient of 0."""
    log_wh = LOG_WH.clone().requires_grad_()
    terms = loss_of(raw, make_batch([[], [], []], [[], [], []]), log_wh)
    assert float(terms["loss_xy"]) == float(terms["loss_wh"]) == float(terms["loss_class"]) == 0
    assert float(terms["loss_objectness"]) == pytest.approx(float(0.5 * raw[:, :, 4].sigmoid().square().sum() / 3))
    (gradient,) = torch.autograd.grad(sum(terms.values()), log_wh)  # type: ignore[arg-type]
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_huge_offsets_stay_finite() -> None:
    raw = torch.full((1, 3, NUM_BOX_CHANNELS + NUM_CLASSES, 4, 6), 200.0, requires_grad=True)
    loss = sum(loss_of(raw, make_batch([[[20.0, 30.0, 61.0, 79.0]]], [[0]]), LOG_WH.float(), prior=1.0).values())
    assert loss.isfinite() and gradient_of(loss, raw).isfinite().all()  # type: ignore[union-attr]
