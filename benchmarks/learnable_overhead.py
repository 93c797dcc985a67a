"""Cost of learnable shapes in torchvision's detectors: a training step, and inference once they are frozen.

    python benchmarks/learnable_overhead.py [--device cuda] [--pairs 20] [--size 320] [--images 2] [--threads 1]

Plain and learnable model do the same work on the same images in turn, who is first changing from pair to pair; then
once more with the networks' outputs held fixed. Printed are medians, and the median and quartiles of the pairs' ratios;
on a CPU of the processor's time. The paper reports 1.6 % more time for a training step. SSD resizes to 300 x 300
whatever the size.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.models import detection
from turns import take_turns

from anchor_lightning import freeze_anchors, make_anchors_learnable

BUILDERS: dict[str, Callable[..., Any]] = {
    "faster_rcnn_r50_fpn": detection.fasterrcnn_resnet50_fpn,
    "retinanet_r50_fpn": detection.retinanet_resnet50_fpn,
    "ssd300": detection.ssd300_vgg16,
}
BOXES, CLASSES = 8, 21
Step = Callable[[], object]


def make_batch(images: int, size: int, device: str) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Noise with boxes from a sixteenth to a half of the image's side."""
    batch, targets = [], []
    for _ in range(images):
        wh = size / 16 * 8 ** torch.rand(BOXES, 2)
        corner = torch.rand(BOXES, 2) * (size - wh)
        boxes = torch.cat([corner, corner + wh], 1)
        batch.append(torch.rand(3, size, size).to(device))
        targets.append({"boxes": boxes.to(device), "labels": torch.randint(1, CLASSES, (BOXES,)).to(device)})
    return batch, targets


def training_step(model: Any, batch: list[Tensor], targets: list[dict[str, Tensor]]) -> Step:
    """Forward, backward, and the step of the optimizer."""
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # The two must not part: another prediction is another amount of work.
    optimizer = torch.optim.SGD(parameters, 1e-6, momentum=0.9)

    def step() -> None:
        torch.manual_seed(0)  # the same samples
        optimizer.zero_grad()
        sum(model(batch, targets).values()).backward()
        optimizer.step()

    return step


def constant(output: Any) -> Callable[..., Any]:
    """Gives what a module gave once, as leaves of a new graph: a step costs nothing but what comes after it."""

    def forward(*args: Any) -> Any:
        if isinstance(output, dict):
            return type(output)((name, value.clone().requires_grad_()) for name, value in output.items())
        return [[value.clone().requires_grad_() for value in part] for part in output]

    return forward


@torch.no_grad()
def without_network(model: Any, batch: list[Tensor], targets: list[dict[str, Tensor]]) -> Step:
    """Placing, matching, sampling, the first stage's losses and their way back: what the method adds something to."""
    model.train()
    images, targets = model.transform(batch, targets)
    features = model.backbone(images.tensors)
    host = model.rpn if hasattr(model, "rpn") else model
    output = host.head(list(features.values()))
    host.head.forward = constant(output)  # the method alone: RetinaNet's head computes the loss as well
    model.backbone.forward = constant(features)

    def step() -> None:
        torch.manual_seed(0)
        losses = host(images, features, targets)[1] if hasattr(model, "rpn") else model(batch, targets)
        sum(losses.values()).backward()

    return torch.enable_grad()(step)


def compare(what: str, plain: Step, ours: Step, pairs: int, device: str) -> None:
    """Prints a row of the table."""

    def clock() -> float:
        if device == "cpu":
            return 1e3 * time.process_time()
        torch.cuda.synchronize()
        return 1e3 * time.perf_counter()

    times = take_turns({"plain": plain, "ours": ours}, pairs, clock=clock)
    ratios, more = zip(*((b / a, b - a) for a, b in zip(*times.values(), strict=True)), strict=True)
    low, middle, high = statistics.quantiles(ratios, n=4)
    row = f"{what:35} {statistics.median(times['plain']):8.1f}   {middle:6.4f} ({low:.4f} to {high:.4f})"
    low, middle, high = statistics.quantiles(more, n=4)
    print(f"{row}   {middle:6.2f} ({low:.2f} to {high:.2f})", flush=True)


def main() -> None:
    """Times each detector's training step and inference, plain and ours in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detectors", nargs="+", choices=list(BUILDERS), default=list(BUILDERS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    for option, default in {"pairs": 20, "size": 320, "images": 2, "threads": 1}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    print(f"{where}; {options.images} images of {options.size} x {options.size}; {options.pairs} pairs; medians in ms")
    print(f"{'':35} {'plain':>8}   ours / plain (quartiles)   ours - plain (quartiles)")
    for name in options.detectors:
        torch.manual_seed(0)
        sizes = {} if name == "ssd300" else {"min_size": options.size, "max_size": options.size}
        plain = BUILDERS[name](weights=None, weights_backbone=None, num_classes=CLASSES, **sizes).to(options.device)
        batch, targets = make_batch(options.images, options.size, options.device)
        learnable = copy.deepcopy(plain)
        make_anchors_learnable(learnable)
        frozen = copy.deepcopy(plain).eval(), freeze_anchors(copy.deepcopy(learnable)).eval()
        for what, make, models, pairs in (
            ("training", training_step, (plain, learnable), options.pairs),
            ("inference", lambda model, batch, _: torch.inference_mode()(partial(model, batch)), frozen, options.pairs),
            ("without network", without_network, (plain, learnable), 2 * options.pairs),
        ):
            compare(f"{name} {what}", *(make(model, batch, targets) for model in models), pairs, options.device)


if __name__ == "__main__":
    main()
