"""Cost of learnable shapes in torchvision's detectors: a training step, and inference once they are frozen.

    python benchmarks/learnable_overhead.py [--device cuda] [--pairs 20] [--size 320] [--images 2] [--threads 1]

Plain and learnable model do the same work on the same images in turn, who is first changing from pair to pair; then
once more with the networks' outputs held fixed. Printed are medians, and the median and quartiles of the pairs' ratios.
The paper reports 1.6 % more time for a training step. SSD resizes to 300 x 300 whatever the size.
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
from torch import Tensor, nn
from torchvision.models import detection

from anchor_lightning import freeze_anchors, make_anchors_learnable

BUILDERS: dict[str, Callable[..., Any]] = {
    "faster_rcnn_r50_fpn": detection.fasterrcnn_resnet50_fpn,
    "retinanet_r50_fpn": detection.retinanet_resnet50_fpn,
    "ssd300": detection.ssd300_vgg16,
}
WARM_UP, BOXES, CLASSES = 2, 8, 21
Step = Callable[[], object]
Times = list[tuple[float, float]]
"""Seconds of each run of a step: by the clock, and of the processor."""


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


class Constant(nn.Module):
    """Says what a module said once, so that a step costs nothing but what comes after it."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *args: Any) -> Any:
        """The same output, as leaves of a new graph."""
        if isinstance(self.output, dict):
            return type(self.output)((name, value.clone().requires_grad_()) for name, value in self.output.items())
        return [[value.clone().requires_grad_() for value in part] for part in self.output]


@torch.no_grad()
def without_network(model: Any, batch: list[Tensor], targets: list[dict[str, Tensor]]) -> Step:
    """Placing, matching, sampling, the first stage's losses and their way back: what the method adds something to."""
    model.train()
    images, targets = model.transform(batch, targets)
    features = model.backbone(images.tensors)
    host = model.rpn if hasattr(model, "rpn") else model
    output = host.head(list(features.values()))
    host.head.forward = Constant(output).forward  # the method alone: RetinaNet's head computes the loss as well
    model.backbone = Constant(features)

    def step() -> None:
        torch.manual_seed(0)
        losses = host(images, features, targets)[1] if hasattr(model, "rpn") else model(batch, targets)
        sum(losses.values()).backward()

    return torch.enable_grad()(step)


def run_pairs(steps: tuple[Step, Step], pairs: int, device: str) -> tuple[Times, Times]:
    """Times of both steps, pair by pair."""
    times: tuple[Times, Times] = ([], [])
    for pair in range(pairs + WARM_UP):
        for which in (0, 1) if pair % 2 else (1, 0):
            wall, processor = time.perf_counter(), time.process_time()
            steps[which]()
            if device == "cuda":
                torch.cuda.synchronize()
            if pair >= WARM_UP:
                times[which].append((time.perf_counter() - wall, time.process_time() - processor))
    return times


def report(name: str, what: str, plain: Times, ours: Times) -> None:
    """A row of the table for each of the two clocks."""
    for clock, label in enumerate(("wall", "processor")):
        theirs, mine = [t[clock] for t in plain], [t[clock] for t in ours]
        ratios = [b / a for a, b in zip(theirs, mine, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:20} {what:10} {label:10} {1e3 * statistics.median(theirs):8.1f} "
            f"{1e3 * statistics.median(mine):8.1f}   {middle:6.4f} ({low:.4f} to {high:.4f})",
            flush=True,
        )


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
    print(f"{'detector':20} {'what':10} {'clock':10} {'plain':>8} {'ours':>8}   ratio (quartiles)")
    for name in options.detectors:
        torch.manual_seed(0)
        sizes = {} if name == "ssd300" else {"min_size": options.size, "max_size": options.size}
        plain = BUILDERS[name](weights=None, weights_backbone=None, num_classes=CLASSES, **sizes).to(options.device)
        batch, targets = make_batch(options.images, options.size, options.device)
        learnable = copy.deepcopy(plain)
        make_anchors_learnable(learnable)
        frozen = (copy.deepcopy(plain), freeze_anchors(copy.deepcopy(learnable)))
        steps = training_step(plain, batch, targets), training_step(learnable, batch, targets)
        report(name, "training", *run_pairs(steps, options.pairs, options.device))
        with torch.inference_mode():
            steps = partial(frozen[0].eval(), batch), partial(frozen[1].eval(), batch)
            report(name, "inference", *run_pairs(steps, options.pairs, options.device))
        steps = without_network(plain, batch, targets), without_network(learnable, batch, targets)
        pairs = zip(*run_pairs(steps, 2 * options.pairs, options.device), strict=True)
        low, middle, high = statistics.quantiles([1e3 * (ours[1] - theirs[1]) for theirs, ours in pairs], n=4)
        label = "without the networks, ours more by"
        print(f"{name:20} {label:43} {middle:8.2f} ms ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
