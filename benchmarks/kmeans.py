"""The k-means start of `fit` on many boxes: on its sample, and on all of them.

    python benchmarks/kmeans.py [--boxes 1000000] [--num 5]

The boxes are drawn around eight shapes; both mean best IoU on all boxes are printed.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from turns import ratio_line, take_turns

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.fitting import kmeans, kmeans_shapes


def main() -> None:
    """Times both once and prints what they are worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in {"boxes": 1_000_000, "num": 5, "threads": 1, "rounds": 1}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    middle = torch.rand(8, 2, generator=generator) * 4 + 1.5
    which = torch.randint(8, (options.boxes,), generator=generator)
    boxes = (middle[which] + 0.4 * torch.randn(options.boxes, 2, generator=generator)).exp().clamp(2, 608)
    found: dict[str, Tensor] = {}

    def cluster(name: str, sample: int) -> None:
        kmeans.SAMPLE = sample  # type: ignore[misc]
        found[name] = kmeans_shapes(boxes, options.num)

    default = kmeans.SAMPLE
    steps = {"sample": lambda: cluster("sample", default), "all": lambda: cluster("all", options.boxes)}
    seconds = take_turns(steps, options.rounds, warm_up=0)
    print(ratio_line(f"k-means start, {options.boxes:,} boxes: a sample", seconds["sample"], "all", seconds["all"]))
    print(*(f"{name}: mean best IoU {mean_best_iou(boxes, wh):.4f}" for name, wh in found.items()), sep="; ")


if __name__ == "__main__":
    main()
