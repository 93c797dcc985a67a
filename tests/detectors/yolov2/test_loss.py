"""The region loss against a plain-loop transcription of what the C region layer computes."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from anchor_lightning.anchors import assign, clustering_loss
from anchor_lightning.detectors.yolov2.head import NUM_BOX_CHANNELS
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.structures import DetectionBatch, Predictions

STRIDE = 32
ANCHORS = [(40.0, 50.0), (100.0, 60.0), (70.0, 160.0)]
NUM_CLASSES = 4
LOG_WH = torch.tensor(ANCHORS, dtype=torch.float64).log()


def make_batch(boxes: list[list[list[float]]], labels: list[list[int]], pad: int = 2) -> DetectionBatch:
    """A batch of float64 boxes, padded by `pad` rows more than needed."""
    num = max(map(len, boxes)) + pad
    boxes_xyxy = torch.zeros(len(boxes), num, 4, dtype=torch.float64)
    label = torch.full((len(boxes), num), -1)
    mask = torch.zeros(len(boxes), num, dtype=torch.bool)
    for image, rows in enumerate(boxes):
        for index, row in enumerate(rows):
            boxes_xyxy[image, index] = torch.tensor(row, dtype=torch.float64)
            label[image, index] = labels[image][index]
            mask[image, index] = True
    empty = torch.zeros(len(boxes))
    return DetectionBatch(empty, boxes_xyxy, label, mask, empty, empty, empty)


def iou_cxcywh(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU of two boxes given as centre and sides."""
    overlap = 1.0
    for axis in (0, 1):
        low = max(a[axis] - a[axis + 2] / 2, b[axis] - b[axis + 2] / 2)
        high = min(a[axis] + a[axis + 2] / 2, b[axis] + b[axis + 2] / 2)
        overlap *= max(0.0, high - low)
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class Reference(NamedTuple):
    """The deltas of the C layer (the negative gradient of its cost) at its activated outputs."""

    delta: Tensor  # (B, A, 5 + C, H, W)
    num_collisions: int
    num_ignored: int


def c_region_layer(raw: Tensor, batch: DetectionBatch, prior: bool) -> Reference:
    """Loops over images, cells, anchors and ground truth boxes as the C code does; delta is overwritten, not added."""
    num_images, num_anchors, _, height, width = raw.shape
    delta = torch.zeros_like(raw)
    num_ignored, taken, num_collisions = 0, set(), 0

    def predicted(b: int, n: int, j: int, i: int) -> tuple[float, ...]:
        x, y, w, h = (float(v) for v in raw[b, n, :4, j, i])
        return (
            (i + sigmoid(x)) / width,
            (j + sigmoid(y)) / height,
            math.exp(w) * ANCHORS[n][0] / STRIDE / width,
            math.exp(h) * ANCHORS[n][1] / STRIDE / height,
        )

    def box_delta(b: int, n: int, j: int, i: int, ground_truth: tuple[float, ...], scale: float) -> float:
        x, y, w, h = (float(v) for v in raw[b, n, :4, j, i])
        aw, ah = ANCHORS[n][0] / STRIDE, ANCHORS[n][1] / STRIDE
        delta[b, n, 0, j, i] = scale * (ground_truth[0] * width - i - sigmoid(x))
        delta[b, n, 1, j, i] = scale * (ground_truth[1] * height - j - sigmoid(y))
        delta[b, n, 2, j, i] = scale * (math.log(ground_truth[2] * width / aw) - w)
        delta[b, n, 3, j, i] = scale * (math.log(ground_truth[3] * height / ah) - h)
        return iou_cxcywh(predicted(b, n, j, i), ground_truth)

    for b in range(num_images):
        ground_truths = []
        for m in range(batch.mask.shape[1]):
            if batch.mask[b, m]:
                x1, y1, x2, y2 = batch.boxes_xyxy[b, m].tolist()
                w_net, h_net = width * STRIDE, height * STRIDE
                centre = ((x1 + x2) / 2 / w_net, (y1 + y2) / 2 / h_net, (x2 - x1) / w_net, (y2 - y1) / h_net)
                ground_truths.append((centre, int(batch.labels[b, m])))
        for j in range(height):
            for i in range(width):
                for n in range(num_anchors):
                    best = max(
                        [iou_cxcywh(predicted(b, n, j, i), ground_truth) for ground_truth, _ in ground_truths],
                        default=0.0,
                    )
                    objectness = sigmoid(float(raw[b, n, 4, j, i]))
                    delta[b, n, 4, j, i] = 0.0 if best > 0.6 else 1.0 * (0 - objectness)
                    num_ignored += best > 0.6
                    if prior:
                        own = ((i + 0.5) / width, (j + 0.5) / height)
                        sides = (ANCHORS[n][0] / STRIDE / width, ANCHORS[n][1] / STRIDE / height)
                        box_delta(b, n, j, i, own + sides, 0.01)
        for ground_truth, label in ground_truths:
            i, j = int(ground_truth[0] * width), int(ground_truth[1] * height)
            best_iou, best_n = 0.0, 0
            for n in range(num_anchors):
                sides = (ANCHORS[n][0] / STRIDE / width, ANCHORS[n][1] / STRIDE / height)
                iou = iou_cxcywh((0, 0, *sides), (0, 0, *ground_truth[2:]))
                if iou > best_iou:
                    best_iou, best_n = iou, n
            num_collisions += (b, best_n, j, i) in taken
            taken.add((b, best_n, j, i))
            iou = box_delta(b, best_n, j, i, ground_truth, 2 - ground_truth[2] * ground_truth[3])
            objectness = sigmoid(float(raw[b, best_n, 4, j, i]))
            delta[b, best_n, 4, j, i] = 5.0 * (iou - objectness)
            logits = raw[b, best_n, NUM_BOX_CHANNELS:, j, i].tolist()
            total = sum(math.exp(v) for v in logits)
            for c, v in enumerate(logits):
                delta[b, best_n, NUM_BOX_CHANNELS + c, j, i] = (c == label) - math.exp(v) / total
    return Reference(delta, num_collisions, num_ignored)


def gradient_at_logits(reference: Reference, raw: Tensor) -> Tensor:
    """What the C layer's deltas are as a gradient: -delta, times σ(1 - σ) for xy and objectness."""
    gradient = -reference.delta.clone()
    for channel in (0, 1, 4):
        activated = raw[:, :, channel].sigmoid()
        gradient[:, :, channel] *= activated * (1 - activated)
    return gradient / raw.shape[0]


def loss_of(
    raw: Tensor, batch: DetectionBatch, log_wh: Tensor, *, prior: float = 0.0, temperature: float = 0.0
) -> dict[str, Tensor]:
    grid = (raw.shape[-2], raw.shape[-1])
    assignment = assign(log_wh, batch.boxes_xyxy, batch.mask, grid, STRIDE, temperature)
    return region_loss(Predictions(raw, STRIDE), batch, assignment, log_wh, prior)


# A 4 x 6 grid (192 x 128 pixels), so that rows and columns cannot be mistaken for each other; the second image has no
# box, the third has boxes at the edge.
BOXES = [
    [[20.0, 30.0, 61.0, 79.0], [100.0, 10.0, 190.0, 75.0], [60.0, 0.0, 130.0, 128.0]],
    [],
    [[0.0, 90.0, 38.0, 128.0], [150.0, 60.0, 192.0, 128.0]],
]
LABELS = [[0, 3, 2], [], [1, 1]]


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
    batch = make_batch(BOXES, LABELS)
    reference = c_region_layer(raw.detach(), batch, prior)
    assert reference.num_collisions == 0
    num_positives = sum(map(len, BOXES))
    assert reference.num_ignored > 0, "the case must hold an ignored anchor"
    assert (reference.delta[:, :, 4] == 0).sum() > 0, "and it must be a negative"
    assert (reference.delta[:, :, NUM_BOX_CHANNELS:].abs().sum(2) > 0).sum() == num_positives

    loss = sum(loss_of(raw, batch, LOG_WH, prior=float(prior)).values())
    (gradient,) = torch.autograd.grad(loss, raw)
    torch.testing.assert_close(gradient, gradient_at_logits(reference, raw.detach()), rtol=1e-9, atol=1e-12)


def test_cost_is_half_the_c_layers_squared_deltas(raw: Tensor) -> None:
    """Per term: ½ Σ delta² for a scale of 1, ½ Σ delta² / scale otherwise; the prior's pull included."""
    batch = make_batch(BOXES, LABELS)
    delta = c_region_layer(raw.detach(), batch, prior=False).delta
    terms = loss_of(raw.detach(), batch, LOG_WH)
    wh = batch.boxes_xyxy[..., 2:] - batch.boxes_xyxy[..., :2]
    scale = 2 - wh.prod(-1) / (192 * 128)
    assignment = assign(LOG_WH, batch.boxes_xyxy, batch.mask, (4, 6), STRIDE)
    expected_xy = expected_wh = expected_objectness = 0.0
    positive = torch.zeros_like(delta[:, :, 4], dtype=torch.bool)
    for b, m in batch.mask.nonzero().tolist():
        n, cell = int(assignment.delta[b, m].argmax()), int(assignment.cell[b, m])
        at = delta[b, n, :, cell // 6, cell % 6]
        expected_xy += 0.5 * float(at[:2].square().sum() / scale[b, m])
        expected_wh += 0.5 * float(at[2:4].square().sum() / scale[b, m])
        expected_objectness += 0.5 * float(at[4] ** 2 / 5)
        positive[b, n, cell // 6, cell % 6] = True
    expected_objectness += 0.5 * float(delta[:, :, 4][~positive].square().sum())
    assert float(terms["loss_xy"]) == pytest.approx(expected_xy / 3, rel=1e-9)
    assert float(terms["loss_wh"]) == pytest.approx(expected_wh / 3, rel=1e-9)
    assert float(terms["loss_objectness"]) == pytest.approx(expected_objectness / 3, rel=1e-9)


def test_colliding_boxes_both_count() -> None:
    """Two equal boxes weigh twice what one does in every positive term; the C code would keep only the last."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(1, 3, NUM_BOX_CHANNELS + NUM_CLASSES, 4, 6, generator=generator, dtype=torch.float64)
    box = [20.0, 30.0, 61.0, 79.0]
    one = loss_of(raw, make_batch([[box]], [[2]]), LOG_WH)
    two = loss_of(raw, make_batch([[box, box]], [[2, 2]]), LOG_WH)
    for name in ("loss_xy", "loss_wh", "loss_class"):
        assert float(two[name]) == pytest.approx(2 * float(one[name]), rel=1e-12)
    reference = c_region_layer(raw, make_batch([[box, box]], [[2, 2]]), prior=False)
    assert reference.num_collisions == 1


def test_soft_assignment_by_hand() -> None:
    """At a huge temperature every anchor of the cell has δ = 1/3, and is a negative with weight 1 - 1/3."""
    raw = torch.zeros(1, 3, NUM_BOX_CHANNELS + NUM_CLASSES, 1, 1, dtype=torch.float64)
    wh = torch.tensor([(32.0, 32.0)] * 3, dtype=torch.float64)
    batch = make_batch([[[6.0, 8.0, 22.0, 24.0]]], [[0]], pad=0)  # 16 x 16 around (14, 16)
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
    """The gradient at log w, log h: finite differences of the wh term with δ held fixed, and Eq. 9's sum itself."""
    batch = make_batch(BOXES, LABELS)
    log_wh = LOG_WH.clone().requires_grad_()
    assignment = assign(log_wh.detach(), batch.boxes_xyxy, batch.mask, (4, 6), STRIDE, temperature)

    def loss(shapes: Tensor) -> Tensor:
        terms = region_loss(Predictions(raw.detach(), STRIDE), batch, assignment, shapes, 1.0)
        clustering = clustering_loss(shapes, assignment.log_wh, assignment.delta, 5.0)
        return terms["loss_wh"] + terms["loss_xy"] + terms["loss_class"] + clustering

    assert torch.autograd.gradcheck(loss, (log_wh,))

    (gradient,) = torch.autograd.grad(
        region_loss(Predictions(raw.detach(), STRIDE), batch, assignment, log_wh)["loss_wh"], log_wh
    )
    expected = torch.zeros_like(log_wh)
    for b, m in batch.mask.nonzero().tolist():
        cell = int(assignment.cell[b, m])
        wh = batch.boxes_xyxy[b, m, 2:] - batch.boxes_xyxy[b, m, :2]
        scale = 2 - wh.prod() / (192 * 128)
        for k in range(len(ANCHORS)):
            offset = raw.detach()[b, k, 2:4, cell // 6, cell % 6]
            residual = offset + log_wh.detach()[k] - wh.log()
            expected[k] += assignment.delta[b, m, k] * scale * residual / 3
    torch.testing.assert_close(gradient, expected)


def test_only_localisation_moves_the_shapes(raw: Tensor) -> None:
    batch = make_batch(BOXES, LABELS)
    log_wh = LOG_WH.clone().requires_grad_()
    terms = loss_of(raw, batch, log_wh, prior=1.0)
    for name in ("loss_xy", "loss_objectness", "loss_class"):
        (gradient,) = torch.autograd.grad(terms[name], log_wh, retain_graph=True, allow_unused=True)
        assert gradient is None or not gradient.any(), name
    (gradient,) = torch.autograd.grad(terms["loss_wh"], log_wh)
    assert gradient.any()


def test_without_boxes_everything_is_background(raw: Tensor) -> None:
    """No ground truth: no box or class loss, objectness is pushed down everywhere, the shapes get a gradient of 0."""
    batch = make_batch([[], [], []], [[], [], []])
    log_wh = LOG_WH.clone().requires_grad_()
    terms = loss_of(raw, batch, log_wh)
    assert float(terms["loss_xy"]) == float(terms["loss_wh"]) == float(terms["loss_class"]) == 0
    assert float(terms["loss_objectness"]) == pytest.approx(float(0.5 * raw[:, :, 4].sigmoid().square().sum() / 3))
    (gradient,) = torch.autograd.grad(sum(terms.values()), log_wh)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_one_class_has_no_class_loss() -> None:
    raw = torch.randn(1, 3, NUM_BOX_CHANNELS + 1, 4, 6, requires_grad=True)
    batch = make_batch([[[20.0, 30.0, 61.0, 79.0]]], [[0]])
    terms = loss_of(raw, batch, torch.tensor(ANCHORS).log())
    assert float(terms["loss_class"]) == 0
    (gradient,) = torch.autograd.grad(terms["loss_class"], raw)
    assert not gradient.any()


def test_huge_offsets_stay_finite() -> None:
    raw = torch.full((1, 3, NUM_BOX_CHANNELS + NUM_CLASSES, 4, 6), 200.0, requires_grad=True)
    batch = make_batch([[[20.0, 30.0, 61.0, 79.0]]], [[0]])
    loss = sum(loss_of(raw, batch, torch.tensor(ANCHORS).log(), prior=1.0).values())
    (gradient,) = torch.autograd.grad(loss, raw)
    assert loss.isfinite() and gradient.isfinite().all()
