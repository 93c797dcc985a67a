"""Trains a grid of the evidence, one line a run in a CSV; may be stopped at any time, and goes on where it stood.

    python benchmarks/evidence/run.py --data PATH --weights tf_efficientnet_lite0.pth --jobs 2
    python benchmarks/evidence/run.py --data PATH --weights tf_efficientnet_lite0.pth --jobs 2 --grid pyramids

The grids are `yolov2` and `pyramids` (RetinaNet, Faster R-CNN, YOLOv3). Runs that are in the CSV are not made again.
`--only` takes runs of one set or arm, `--list` says what is left.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
GRIDS = ("yolov2", "pyramids")  # modules with `KEY`, `COLUMNS`, `CSV`, `SETS`, `grid` and `train`


def train(name: str, run: Any, data: Path, weights: str, cache: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Trains and tests a run of the grid of this name; a row of its CSV but for the commit."""
    from cache import feature_folder

    grid = importlib.import_module(name)
    real = grid.SETS[run.set]
    features = feature_folder(cache, run.set, real, weights) if real.frozen_stages == "all" else None
    row: dict[str, Any] = grid.train(run, data, weights, features, overrides)
    return row


def prepare(name: str, runs: Sequence[Any], data: Path, weights: str, cache: Path, num_threads: int) -> None:
    """Computes the features of the sets whose backbone is frozen."""
    import torch
    from cache import build, feature_folder
    from sets import BACKBONE

    from anchor_lightning.detectors.timm_backbone import TimmBackbone

    grid = importlib.import_module(name)
    for set_name in dict.fromkeys(run.set for run in runs):
        real = grid.SETS[set_name]
        folder = feature_folder(cache, set_name, real, weights)
        if real.frozen_stages == "all" and not (folder / "test.npz").exists():
            backbone = TimmBackbone(BACKBONE, real.strides)
            backbone.load(weights)
            torch.set_num_threads(num_threads)
            build(real.module(data, 0), backbone, folder, real.variants)


def commit() -> str:
    """The commit that is checked out."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def done(path: Path, key: Sequence[str]) -> set[tuple[str, ...]]:
    """The keys of the runs in a CSV."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(row[name] for name in key) for row in csv.DictReader(file)}


def append(path: Path, columns: Sequence[str], row: dict[str, Any]) -> None:
    """Adds one line, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    """Runs what is left of the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--weights", required=True, help="file of the backbone's weights")
    parser.add_argument("--grid", choices=GRIDS, default=GRIDS[0])
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "features", help="folder for features")
    parser.add_argument("--output", type=Path, help="the grid's own in docs/evidence if not given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="*", default=[], help="KEY=VALUE, such as set=voc12 arm=baseline seed=0")
    parser.add_argument("--recipe", nargs="*", default=[], help="KEY=VALUE, another recipe; give another --output, too")
    parser.add_argument("--list", action="store_true", help="say what is left, and end")
    args = parser.parse_args()
    import yaml

    grid = importlib.import_module(args.grid)
    output = args.output or ROOT / "docs" / "evidence" / grid.CSV
    wanted = [pair.split("=", 1) for pair in args.only]
    overrides = {name: yaml.safe_load(value) for name, value in (pair.split("=", 1) for pair in args.recipe)}
    finished = done(output, grid.KEY)
    todo = [r for r in grid.grid() if tuple(map(str, r)) not in finished]
    todo = [r for r in todo if all(str(getattr(r, name)) in value.split(",") for name, value in wanted)]
    print(f"{len(todo)} runs are left, {len(finished)} are done.")
    if args.list:
        print(*todo, sep="\n")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the pool's processes end, too
    prepare(args.grid, todo, args.data, args.weights, args.cache, args.jobs)
    context, revision, failed = multiprocessing.get_context("spawn"), commit(), 0
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        options = (args.data, args.weights, args.cache, overrides)
        waiting = {pool.submit(train, args.grid, r, *options): r for r in todo}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    run = waiting.pop(future)
                    if (error := future.exception()) is not None:
                        failed += 1
                        print(f"{run} failed: {error!r}", flush=True)
                        continue
                    row = future.result() | {"commit": revision}
                    append(output, grid.COLUMNS, row)
                    scores = f"AP@.5 {row['map_50']:.4f}, frequent classes {row['map_50_frequent']:.4f}"
                    print(f"{run}: {scores}, {row['seconds']} s, {len(waiting)} left", flush=True)
        except BaseException:  # Ctrl+C and SIGTERM among them: what runs would go on else
            for process in multiprocessing.active_children():
                process.kill()
            raise
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    main()
