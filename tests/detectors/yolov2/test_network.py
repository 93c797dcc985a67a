from __future__ import annotations

import pytest
import torch
from torch import nn

from anchor_lightning.anchors import assign, clustering_loss
from anchor_lightning.detectors.yolov2.head import BatchNormWithoutShift, decode, reorg
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from anchor_lightning.structures import DetectionBatch


def test_reorg_is_darknets_loop() -> None:
    """The index arithmetic of the C code, on position-coded input that is not square."""
    channels, height, width, stride = 8, 4, 6, 2
    source = torch.arange(channels * height * width, dtype=torch.float32)
    target = torch.empty_like(source)
    out_channels = channels // stride**2
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                c2, offset = k % out_channels, k // out_channels
                w2, h2 = i * stride + offset % stride, j * stride + offset // stride
                target[i + width * (j + height * k)] = source[w2 + width * stride * (h2 + height * stride * c2)]
    expected = target.reshape(1, channels * 4, height // 2, width // 2)
    features = source.reshape(1, channels, height, width)
    assert torch.equal(reorg(features), expected)
    assert torch.equal(reorg(features.contiguous(memory_format=torch.channels_last)), expected)
    assert not torch.equal(expected, torch.nn.functional.pixel_unshuffle(features, 2)), "it is not the usual layout"


def test_channels_of_the_published_network() -> None:
    """Filters and kernels of yolov2-voc.cfg's convolutions, in order."""
    with torch.device("meta"):
        model = YOLOv2Network(5, 20, bn_without_shift=False)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    filters = [32, 64, 128, 64, 128, 256, 128, 256, 512, 256, 512, 256, 512, 1024, 512, 1024, 512, 1024]
    assert [c.out_channels for c in convolutions] == [*filters, 1024, 1024, 64, 1024, 125]
    assert [c.kernel_size[0] for c in convolutions[:18]] == [3, 3, 3, 1, 3, 3, 1, 3, 3, 1, 3, 1, 3, 3, 1, 3, 1, 3]
    assert [c.in_channels for c in convolutions[-4:]] == [1024, 512, 1280, 1024]
    # yolov2-voc.weights is 202,704,260 bytes: a header of 16, and four-byte floats for every parameter and running mean
    # and variance.
    floats = sum(p.numel() for p in model.parameters())
    floats += sum(b.numel() for name, b in model.named_buffers() if "num_batches" not in name)
    assert 16 + 4 * floats == 202_704_260


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (160, 32)])
@pytest.mark.parametrize("bn_without_shift", [False, True])
def test_any_multiple_of_32(size: tuple[int, int], bn_without_shift: bool) -> None:
    model = YOLOv2Network(3, 4, width=0.1, bn_without_shift=bn_without_shift)
    raw = model(torch.rand(2, 3, *size)).raw
    assert raw.shape == (2, 3, 9, size[0] // 32, size[1] // 32)


def test_bn_without_shift_has_zero_mean_and_no_bias() -> None:
    model = YOLOv2Network(3, 4, width=0.1, bn_scale_init=0.3)
    raw = model(torch.rand(8, 3, 64, 96)).raw
    offsets = raw[:, :, 2:4].transpose(0, 2).flatten(1)  # (2, ...)
    torch.testing.assert_close(offsets.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(offsets.std(1), torch.full((2,), 0.3), atol=0.01, rtol=0)
    norm = model.head.norm
    assert norm is not None and norm.bias is None and model.head.wh.bias is None
    assert norm.momentum == 0.1 and norm.track_running_stats


def test_fold_leaves_the_baselines_graph_and_the_same_output() -> None:
    torch.manual_seed(0)
    model = YOLOv2Network(3, 4, width=0.1)
    for _ in range(3):
        model(torch.rand(4, 3, 64, 64))  # running statistics that are not the initial ones
    assert model.head.norm is not None
    with torch.no_grad():
        model.head.norm.weight.uniform_(0.2, 2)
    model.eval()
    images = torch.rand(2, 3, 64, 96)
    before = model(images).raw
    model.fold()
    torch.testing.assert_close(model(images).raw, before, atol=1e-5, rtol=1e-5)
    baseline = YOLOv2Network(3, 4, width=0.1, bn_without_shift=False)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in baseline.named_modules()]
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in baseline.state_dict().items()}
    assert not any(isinstance(m, BatchNormWithoutShift) for m in model.modules())


def test_decode_by_hand() -> None:
    raw = torch.zeros(1, 2, 5, 2, 3)
    raw[0, 1, :, 1, 2] = torch.tensor([0.0, 100.0, 0.5, -0.5, 0.0])
    boxes = decode(raw, torch.tensor([[32.0, 32.0], [64.0, 96.0]]).log(), 32)
    # Anchor 1 in row 1, column 2: x in the middle of the cell, y at its end.
    expected = torch.tensor([2.5 * 32, 2 * 32, 64 * torch.e**0.5, 96 * torch.e**-0.5])
    torch.testing.assert_close(boxes[0, 1, :, 1, 2], expected)
    torch.testing.assert_close(boxes[0, 0, :, 0, 1], torch.tensor([48.0, 16.0, 32.0, 32.0]))


def random_batch(num_images: int, num_boxes: int, size: int, num_real: int) -> DetectionBatch:
    generator = torch.Generator().manual_seed(num_real)
    corner = torch.rand(num_images, num_boxes, 2, generator=generator) * (size - 40)
    boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(num_images, num_boxes, 2, generator=generator)], dim=-1)
    mask = (torch.arange(num_boxes) < num_real).expand(num_images, -1)
    labels = torch.where(mask, torch.randint(0, 3, mask.shape, generator=generator), -1)
    images, empty = torch.rand(num_images, 3, size, size, generator=generator), torch.zeros(num_images)
    return DetectionBatch(images, boxes * mask[..., None], labels, mask, empty, empty, empty)


def test_compiles_whole_and_only_once() -> None:
    """Network, assignment and loss in one graph; another T, λ, or number of boxes does not compile anew."""
    torch.compiler.reset()
    model = YOLOv2Network(3, 3, width=0.1)
    log_wh = torch.tensor([[20.0, 20.0], [30.0, 50.0], [60.0, 30.0]]).log().requires_grad_()

    def step(
        images: torch.Tensor, batch: DetectionBatch, temperature: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        predictions = model(images)
        assignment = assign(log_wh, batch.boxes_xyxy, batch.mask, (2, 2), 32, temperature, "l2")
        terms = region_loss(predictions, batch, assignment, log_wh, weight)
        clustering = clustering_loss(log_wh, assignment.log_wh, assignment.delta, batch.mask.sum().clamp_min(1))
        return sum(terms.values()) + weight * clustering

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    with torch.compiler.set_stance("default"):
        first = random_batch(2, 8, 64, 5)
        args = (first.images, first, torch.tensor(2.0), torch.tensor(1.0))
        model.eval()  # running statistics would move between the two calls that are compared
        torch.testing.assert_close(compiled(*args), step(*args))
        compiled(*args).backward()
        assert log_wh.grad is not None and log_wh.grad.any()
    with torch.compiler.set_stance("fail_on_recompile"):
        for num_real, temperature in ((0, 1.3), (3, 0.0), (8, 0.7)):
            batch = random_batch(2, 8, 64, num_real)
            args = (batch.images, batch, torch.tensor(temperature), torch.tensor(0.0))
            torch.testing.assert_close(compiled(*args), step(*args))


def test_trains_in_bf16_and_channels_last() -> None:
    """The loss is float32 and close to that of full precision."""
    torch.manual_seed(0)
    model = YOLOv2Network(3, 3, width=0.1)
    log_wh = torch.tensor([[20.0, 20.0], [30.0, 50.0], [60.0, 30.0]]).log().requires_grad_()
    batch = random_batch(2, 8, 64, 5)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            predictions = model(images)
            assignment = assign(log_wh, batch.boxes_xyxy, batch.mask, (2, 2), 32)
            losses.append(sum(region_loss(predictions, batch, assignment, log_wh).values()))
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.1, atol=0)
    losses[1].backward()
    assert log_wh.grad is not None and log_wh.grad.dtype == torch.float32 and log_wh.grad.isfinite().all()
