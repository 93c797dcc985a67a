"""The pause of a checkpoint of YOLOv2 at width 1, with momentum: written once and linked, and written twice.

python benchmarks/checkpoint.py [--rounds 5] [--folder .]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from turns import ratio_line, take_turns

from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from anchor_lightning.training.checkpoint_io import AtomicCheckpointIO


def main() -> None:
    """Times both and prints their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=".", help="where a folder for the files is made, on the disk to measure")
    options = parser.parse_args()
    state = YOLOv2Network(5, 20).state_dict()
    momentum = {name: torch.zeros_like(value) for name, value in state.items()}
    content = {"state_dict": state, "optimizer_states": [momentum]}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        numbered, last = Path(folder, "step500.ckpt"), Path(folder, "last.ckpt")

        def save(linked: bool) -> None:
            checkpoint_io = AtomicCheckpointIO()
            checkpoint_io.save_checkpoint(content, numbered)
            checkpoint_io.same_as = numbered if linked else None
            checkpoint_io.save_checkpoint(content, last)

        steps = {"linked": lambda: save(True), "written twice": lambda: save(False)}
        seconds = take_turns(steps, options.rounds, warm_up=1)
    print(ratio_line("checkpoint, width 1: linked", seconds["linked"], "written twice", seconds["written twice"]))


if __name__ == "__main__":
    main()
