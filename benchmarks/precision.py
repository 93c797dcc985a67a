"""A training step of small.yaml's network in bf16 and in float32, on a processor with bf16 instructions and without.

    python benchmarks/precision.py [--rounds 5]

One process a processor; the one without is this one in oneDNN's and torch's AVX2 code. In a process both take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import torch
from turns import ratio_line, take_turns

from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from anchor_lightning.training.processor import has_bf16

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
WIDTH, IMAGES, SIDE = 0.25, 8, 416


def measure(rounds: int, where: str) -> None:
    """Prints how bf16 compares with float32 in this process."""
    network = YOLOv2Network(5, 20, WIDTH).to(memory_format=torch.channels_last)
    images = torch.rand(IMAGES, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

    def step(bf16: bool) -> None:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            raw = network(images).raw
        raw.float().square().mean().backward()

    seconds = take_turns({"bf16": lambda: step(True), "float32": lambda: step(False)}, rounds, warm_up=1)
    print(ratio_line(f"training step, width {WIDTH}, {where}: bf16", seconds["bf16"], "float32", seconds["float32"]))


def main() -> None:
    """Measures in this process, then in one that has no bf16 instructions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--here", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.here:
        measure(options.rounds, options.here)
        return
    measure(options.rounds, "this processor, " + ("with bf16" if has_bf16() else "without bf16"))
    again = [sys.executable, *sys.argv, "--here", "AVX2 only"]
    subprocess.run(again, env=os.environ | AVX2, check=True)


if __name__ == "__main__":
    main()
