"""Time of the loss with assignment, forward and backward, as a ratio to one matrix product and to the network's step.

    python benchmarks/loss.py [--threads 2] [--rounds 30] [--width 1.0]

13 x 13 x 5 x 25 predictions, 64 images of 20 boxes on average, soft assignment and clustering included; all in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from turns import ratio_line, take_turns

from anchor_lightning.anchors import assign, clustering_loss
from anchor_lightning.detectors.yolov2.loss import region_loss
from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from anchor_lightning.structures import DetectionBatch, Predictions

IMAGES, GRID, STRIDE, CLASSES, BUCKET = 64, 13, 32, 20, 32
SIDE = GRID * STRIDE
PRODUCT, NETWORK_IMAGES = 1024, 2


def make_batch() -> DetectionBatch:
    """64 images with 8 to 32 boxes, 20 on average."""
    counts = torch.randint(8, 33, (IMAGES, 1))
    mask = torch.arange(BUCKET) < counts
    wh = torch.rand(IMAGES, BUCKET, 2) * 150 + 10
    corner = torch.rand(IMAGES, BUCKET, 2) * (SIDE - wh)
    boxes = torch.cat([corner, corner + wh], dim=-1) * mask[..., None]
    labels = torch.where(mask, torch.randint(0, CLASSES, mask.shape), -1)
    empty = torch.zeros(IMAGES)
    return DetectionBatch(empty, boxes, labels, mask, empty, empty, empty)


def make_loss_step() -> Callable[[], None]:
    """Assignment, all terms and their backward pass."""
    batch = make_batch()
    log_wh = torch.rand(5, 2).mul(5).requires_grad_()
    raw = torch.randn(IMAGES, 5, 5 + CLASSES, GRID, GRID).requires_grad_()
    temperature, prior, num_boxes = torch.tensor(1.0), torch.tensor(1.0), batch.mask.sum()

    def step() -> None:
        raw.grad = log_wh.grad = None
        assignment = assign(log_wh, batch.boxes_xyxy, batch.mask, (GRID, GRID), STRIDE, temperature, "l2")
        terms = region_loss(Predictions(raw, STRIDE), batch, assignment, log_wh, prior)
        loss: Tensor = sum(terms.values()) + clustering_loss(log_wh, assignment.log_wh, assignment.delta, num_boxes)
        loss.backward()

    return step


def make_network_step(width: float) -> Callable[[], None]:
    """Forward and backward of the network on two images, in channels_last."""
    network = YOLOv2Network(5, CLASSES, width).to(memory_format=torch.channels_last)
    images = torch.rand(NETWORK_IMAGES, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        network.zero_grad()
        network(images).raw.square().mean().backward()

    return step


def main() -> None:
    """Times the three in turn and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in {"threads": 2, "rounds": 30, "width": 1.0}.items():
        parser.add_argument(f"--{option}", type=type(default), default=default)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    a, b = torch.randn(2, PRODUCT, PRODUCT)
    steps = {"loss": make_loss_step(), "product": lambda: a @ b, "network": make_network_step(options.width)}
    seconds = take_turns(steps, options.rounds)
    print(ratio_line("loss and assignment of 64 images", seconds["loss"], "a product of 1024", seconds["product"]))
    of_batch = [value * IMAGES / NETWORK_IMAGES for value in seconds["network"]]
    print(ratio_line("loss and assignment of 64 images", seconds["loss"], "the network's step on them", of_batch))


if __name__ == "__main__":
    main()
