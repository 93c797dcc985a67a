"""A training step of the network on this machine's CPU, compiled (`model.detector.compile`) and as it is, in turn.

    python benchmarks/compiled.py [--rounds 10] [--width 0.25]

The compilation, forward and backward, is timed apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from turns import ratio_line, take_turns

from anchor_lightning.detectors.yolov2.network import YOLOv2Network

IMAGES, SIDE = 8, 416


def make_step(width: float, compiled: bool) -> Callable[[], None]:
    """Forward and backward on eight images."""
    network = YOLOv2Network(5, 20, width).to(memory_format=torch.channels_last)
    if compiled:
        network.compile()
    images = torch.rand(IMAGES, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        network.zero_grad()
        network(images).raw.square().mean().backward()

    return step


def main() -> None:
    """Prints the seconds of the compilation and the ratio of the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in {"rounds": 10, "width": 0.25, "threads": 1}.items():
        parser.add_argument(f"--{option}", type=type(default), default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = {"compiled": make_step(options.width, True), "eager": make_step(options.width, False)}
    start = time.perf_counter()
    steps["compiled"]()
    print(f"compilation and first step: {time.perf_counter() - start:.0f} s")
    seconds = take_turns(steps, options.rounds)
    print(ratio_line(f"training step, width {options.width}: compiled", seconds["compiled"], "eager", seconds["eager"]))


if __name__ == "__main__":
    main()
