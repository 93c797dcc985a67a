"""Processor time of short commands, against `import torch` and against the same with garbage collection left on.

    python benchmarks/startup.py [--rounds 5]

Each is a process of its own; user and system time together, in turn.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from turns import ratio_line, take_turns

COMMANDS = {
    "--help": ["--help"],
    "fit --help": ["fit", "--help"],
    "fit --help-all": ["fit", "--help-all"],
    "anchors fit": ["anchors", "fit", "--data", "set", "--num", "5"],
}
COLLECTING = "import sys; from anchor_lightning.cli import main; main(sys.argv[1:])"
LABEL = "0 0.5 0.5 0.{0} 0.4\n0 0.3 0.6 0.2 0.{0}\n"


def processor_time() -> float:
    """Seconds that processes started from here have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_set(folder: Path) -> None:
    """Forty labels in YOLO's format, with images of one pixel."""
    from PIL import Image

    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for index in range(40):
        Image.new("RGB", (64, 64)).save(folder / "images" / "train" / f"{index}.png")
        (folder / "labels" / "train" / f"{index}.txt").write_text(LABEL.format(index + 10), encoding="utf-8")
    (folder / "data.yaml").write_text("train: images/train\nnames: [one]\n", encoding="utf-8")


def main() -> None:
    """Prints a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        make_set(Path(folder, "set"))

        def run(*args: str) -> None:
            subprocess.run([sys.executable, *args], cwd=folder, check=True, capture_output=True)

        steps = {"torch": partial(run, "-c", "import torch")}
        for name, words in COMMANDS.items():
            steps[name] = partial(run, "-m", "anchor_lightning", *words)
            steps[f"{name}, collecting"] = partial(run, "-c", COLLECTING, *words)
        seconds = take_turns(steps, rounds, warm_up=1, clock=processor_time)
    for name in COMMANDS:
        print(ratio_line(f"start of {name}", seconds[name], "import torch", seconds["torch"]))
        print(ratio_line(f"start of {name}", seconds[name], "garbage collected", seconds[f"{name}, collecting"]))


if __name__ == "__main__":
    main()
