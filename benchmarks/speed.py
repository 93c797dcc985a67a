"""The whole table of speeds: runs the other scripts one after the other and writes docs/speed.md.

    python benchmarks/speed.py [--only inference startup] [--output docs/speed.md]

In a script what is compared takes turns, so that ratios hold on a busy machine. Peers take part where they are
installed: onnxruntime, OpenCV, lightnet, pycocotools, hotcoco, and those of `data_loading.py`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

HERE = Path(__file__).parent
SCRIPTS = {  # -> their arguments
    "data_loading": [],
    "startup": [],
    "kmeans": [],
    "checkpoint": [],
    "loss": ["--threads", "1"],
    "inference": [],
    "predict": [],
    "precision": [],
    "coco_backends": ["--images", "300"],
    "compiled": [],
}
PEERS = ("onnxruntime", "OpenCV", "lightnet", "pycocotools", "hotcoco", "albumentations", "torchvision")
LINE = re.compile(
    r"(?P<what>.+) / (?P<other>[^/]+): (?P<ratio>[\d.]+) \[(?P<low>[\d.]+), (?P<high>[\d.]+)\], "
    r"(?P<seconds>\S+ s / \S+ s)"
)
# Of data_loading.py: how many times as long others take as the path from file to network, and another item as ours.
LOADING = re.compile(r"(?P<other>.+?) +\d+ +\d+ images/s +(?P<ratio>[\d.]+) \((?P<low>[\d.]+) to (?P<high>[\d.]+)\)")
LIMIT = 1800.0  # seconds that one script may take
NOTES = """\
## In words

- `predict` runs the YOLOs in bf16 where the processor has instructions for it. On the 72 test images of BCCD a detector
  trained with `small.yaml` has 1,814 boxes above a score of 0.3 in float32; in bf16 1,813 of them are found again, at
  an IoU of 0.998 (median; 0.994 for the worst hundredth), with scores that differ by 0.009 at most. Without such
  instructions torch's network takes 1.4 to 1.5 times as long as the exported model in onnxruntime; `predict` then runs
  200 images or more in onnxruntime, where that is installed, and any number with `--engine onnxruntime`.
- On a CPU `model.detector.compile` makes training slower, and is warned of; `bf16-mixed` of a configuration is
  `32-true` where the processor has no instructions for it.
- On an accelerator nothing is measured here. By construction colour distortion runs on the device, a step of YOLOv2 and
  YOLOv3 asks the device for no value (a test counts), cuDNN chooses its algorithms by trying them
  (`trainer.benchmark`, unless `deterministic`), and SGD is fused (but in `16-mixed`).
"""


class Result(NamedTuple):
    """What a script has printed: lines that compare two times, and all others."""

    compared: list[dict[str, str]]
    said: list[str]


def read(output: str) -> Result:
    """The lines of a script's output."""
    result = Result([], [])
    for line in filter(str.strip, output.splitlines()):
        if match := LINE.fullmatch(line):
            result.compared.append(match.groupdict())
        elif match := LOADING.fullmatch(line):
            turned = {"ratio": "ratio", "low": "high", "high": "low"}
            ours = {name: f"{1 / float(match[other]):.2f}" for name, other in turned.items()}
            what = "training item" if match["other"].startswith("training item with") else "file to network"
            result.compared.append({"what": what, "other": match["other"].strip(), "seconds": "", **ours})
        else:
            result.said.append(line)
    return result


def run(script: str, rounds: int) -> Result:
    """Runs a script in a process of its own; one that fails or takes too long says so in its result."""
    times = ["--repeats" if script == "coco_backends" else "--rounds", str(rounds)]
    command = [sys.executable, "-W", "ignore", str(HERE / f"{script}.py"), *SCRIPTS[script], *times]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return Result([], [f"not done within {LIMIT:.0f} s"])
    if done.returncode:
        return Result([], [f"failed: {done.stderr.strip().splitlines()[-1]}"])
    return read(done.stdout)


def page(results: dict[str, Result], machine: str) -> str:
    """The text of docs/speed.md."""
    rows = [row for result in results.values() for row in result.compared]
    behind = [row for row in rows if row["other"].startswith(PEERS) and float(row["ratio"]) > 1]
    lines = [f"- {row['what']}: {row['ratio']} times as long as {row['other']}" for row in behind]
    table = ["| {what} | {other} | {ratio} | {low} to {high} | {seconds} |".format(**row) for row in rows]
    said = [f"{script}: {line}" for script, result in results.items() for line in result.said]
    return (
        "\n".join(
            [
                "# Speed",
                "",
                f"Written by `python benchmarks/speed.py`. {machine}",
                "Ratios are of times, median and quartiles of turns in one process (starts: of processes); below 1 is",
                "faster. The seconds are of a machine that does other work as well.",
                "",
                "| what | against | ratio | quartiles | seconds |",
                "|---|---|---|---|---|",
                *table,
                "",
                "## Behind a peer",
                "",
                *(lines or ["Nothing that was measured."]),
                "",
                "## What the scripts say besides",
                "",
                "```text",
                *said,
                "```",
                "",
                NOTES,
            ]
        ).rstrip("\n")
        + "\n"
    )


def describe_machine() -> str:
    """Date, processor and versions."""
    has_bf16 = "with" if torch.cpu._is_avx512_bf16_supported() else "without"
    cores = f"{os.cpu_count()} {platform.machine()} cores {has_bf16} AVX512_BF16, one used"
    return f"{datetime.date.today():%Y-%m-%d}, {cores}, torch {torch.__version__}, Python {platform.python_version()}."


def main() -> None:
    """Runs the scripts and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each script")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "speed.md")
    options = parser.parse_args()
    results = {}
    for script in options.only:
        print(f"{script} ...", flush=True)
        results[script] = run(script, options.rounds)
        for row in results[script].compared:
            print(f"  {row['what']} / {row['other']}: {row['ratio']}", flush=True)
    options.output.write_text(page(results, f"{options.rounds} rounds. {describe_machine()}"), encoding="utf-8")
    print(f"Wrote {options.output}")


if __name__ == "__main__":
    main()
