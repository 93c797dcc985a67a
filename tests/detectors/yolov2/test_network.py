from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anchor_lightning.anchors import AnchorOptions, assign, clustering_loss
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.detectors.yolo.head import decode
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.detectors.yolov2.network import YOLOv2Network, reorg
from anchor_lightning.structures import DetectionBatch, Predictions


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
    features = source.reshape(1, channels, height, width).contiguous(memory_format=torch.channels_last)
    assert torch.equal(reorg(features), target.reshape(1, channels * 4, height // 2, width // 2))


def test_channels_of_the_published_network() -> None:
    """Filters and kernels of yolov2-voc.cfg's convolutions, in order."""
    with torch.device("meta"):
        model = YOLOv2Network(5, 20, bn_without_shift=False)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    filters = [32, 64, 128, 64, 128, 256, 128, 256, 512, 256, 512, 256, 512, 1024, 512, 1024, 512, 1024]
    assert [c.out_channels for c in convolutions] == [*filters, 1024, 1024, 64, 1024, 125]
    assert [c.kernel_size[0] for c in convolutions[:18]] == [3, 3, 3, 1, 3, 3, 1, 3, 3, 1, 3, 1, 3, 3, 1, 3, 1, 3]
    assert [c.in_channels for c in convolutions[-4:]] == [1024, 512, 1280, 1024]
    # yolov2-voc.weights has 202,704,260 bytes, darknet19_448.conv.23 79,327,120: a header of 16, and four-byte floats
    # for every parameter and running mean and variance.
    for module, size in ((model, 202_704_260), (model.backbone, 79_327_120)):
        assert 16 + 4 * sum(v.numel() for v in module.state_dict().values() if v.is_floating_point()) == size


def test_bn_without_shift_has_zero_mean_and_no_bias() -> None:
    model = YOLOv2Network(3, 4, width=0.1, bn_scale_init=0.3)
    raw = model(torch.rand(8, 3, 64, 96)).raw
    assert raw.shape == (8, 3, 9, 2, 3)
    offsets = raw[:, :, 2:4].transpose(0, 2).flatten(1)  # (2, ...)
    torch.testing.assert_close(offsets.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(offsets.std(1), torch.full((2,), 0.3), atol=0.01, rtol=0)
    norm = model.head.norm
    assert norm is not None and norm.bias is None and model.head.wh.bias is None
    assert norm.momentum == 0.1 and norm.track_running_stats


def test_decode_by_hand() -> None:
    raw = torch.zeros(1, 2, 5, 2, 3)
    raw[0, 1, :, 1, 2] = torch.tensor([0.0, 100.0, 0.5, -0.5, 0.0])
    boxes = decode(raw, torch.tensor([[32.0, 32.0], [64.0, 96.0]]).log(), 32)
    # Anchor 1 in row 1, column 2: x in the middle of the cell, y at its end.
    expected = torch.tensor([2.5 * 32, 2 * 32, 64 * torch.e**0.5, 96 * torch.e**-0.5])
    torch.testing.assert_close(boxes[0, 1, :, 1, 2], expected)
    torch.testing.assert_close(boxes[0, 0, :, 0, 1], torch.tensor([48.0, 16.0, 32.0, 32.0]))


def random_batch(num_real: int) -> DetectionBatch:
    """Two images of 64 pixels with room for eight boxes."""
    generator = torch.Generator().manual_seed(num_real)
    corner, wh = torch.rand(2, 2, 8, 2, generator=generator) * torch.tensor([24.0, 30.0])[:, None, None, None]
    mask = (torch.arange(8) < num_real).expand(2, -1)
    labels = torch.where(mask, torch.randint(0, 3, mask.shape, generator=generator), -1)
    images, empty = torch.rand(2, 3, 64, 64, generator=generator), torch.zeros(2)
    boxes = torch.cat([corner, corner + 10 + wh], dim=-1) * mask[..., None]
    return DetectionBatch(images, boxes, labels, mask, empty, empty, empty)


@pytest.fixture
def model() -> YOLOv2Network:
    torch.manual_seed(0)
    return YOLOv2Network(3, 3, width=0.1)


@pytest.fixture
def log_wh() -> Tensor:
    return torch.tensor([[20.0, 20.0], [30.0, 50.0], [60.0, 30.0]]).log().requires_grad_()


def test_compiles_whole_and_only_once(model: YOLOv2Network, log_wh: Tensor) -> None:
    """Network, assignment and loss in one graph; another T, λ, or number of boxes does not compile anew."""
    torch.compiler.reset()
    model.eval()  # running statistics would move between the two calls that are compared

    def step(batch: DetectionBatch, temperature: Tensor, weight: Tensor) -> Tensor:
        predictions = model(batch.images)
        assignment = assign(log_wh, batch.boxes_xyxy, batch.mask, (2, 2), 32, temperature, "l2")
        terms = region_loss(predictions, batch, assignment, log_wh, weight)
        clustering = clustering_loss(log_wh, assignment.log_wh, assignment.delta, batch.mask.sum().clamp_min(1))
        return sum(terms.values()) + weight * clustering

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    for number, (num_real, temperature, weight) in enumerate([(5, 2.0, 1.0), (0, 1.3, 0.0), (3, 0.0, 0.0)]):
        args = (random_batch(num_real), torch.tensor(temperature), torch.tensor(weight))
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            torch.testing.assert_close(compiled(*args), step(*args))


def test_trains_in_bf16_and_channels_last(model: YOLOv2Network, log_wh: Tensor) -> None:
    """The loss is float32 and close to that of full precision."""
    batch = random_batch(5)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            predictions = model(batch.images.contiguous(memory_format=torch.channels_last))
            assignment = assign(log_wh, batch.boxes_xyxy, batch.mask, (2, 2), 32)
            losses.append(sum(region_loss(predictions, batch, assignment, log_wh).values()))
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.1, atol=0)
    losses[1].backward()
    assert log_wh.grad is not None and log_wh.grad.dtype == torch.float32 and log_wh.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_autocast_lowers_the_network_alone(model: YOLOv2Network, log_wh: Tensor, temperature: float) -> None:
    """Of the same predictions, δ, every term and both gradients are equal to the bit with and without it."""
    batch = random_batch(5)
    raw = model(batch.images).raw.detach().requires_grad_()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assignment = assign(log_wh, batch.boxes_xyxy, batch.mask, (2, 2), 32, temperature, "l2")
            terms = region_loss(Predictions(raw, 32), batch, assignment, log_wh, 1.0)
            terms["clustering"] = clustering_loss(log_wh, assignment.log_wh, assignment.delta, 5)
        gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), [raw, log_wh])
        results.append([assignment.delta, *terms.values(), *gradients])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_shapes_of_several_levels_are_said_to_be_one_level(recwarn: pytest.WarningsRecorder) -> None:
    detector = YOLOv2(3, AnchorOptions(init=[[[10.0, 20.0]], [[30.0, 40.0], [60.0, 50.0]]]), width=0.1)
    torch.testing.assert_close(detector.shapes.wh, torch.tensor([[10.0, 20.0], [30.0, 40.0], [60.0, 50.0]]))
    assert [str(w.message) for w in recwarn] == ["anchors.init: YOLOv2 has one level, which takes the shapes of all 2."]
    YOLOv2(3, AnchorOptions(init=[[[10.0, 20.0]]]), width=0.1)
    assert len(recwarn) == 1
