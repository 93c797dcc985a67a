"""Trains the grid of the evidence, one line a run in a CSV; may be stopped at any time, and goes on where it stood.

    python benchmarks/evidence/run.py --data PATH --weights tf_efficientnet_lite0.pth --jobs 2

Runs that are in the CSV are not made again. `--only` takes runs of one set or arm, `--list` says what is left.
"""

from __future__ import annotations

import argparse
import csv
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
RUNS = ROOT / "docs" / "evidence" / "runs.csv"
KEY = ("set", "arm", "start", "seed", "num")
COLUMNS = (
    *KEY,
    *("steps", "map_50", "map_50_frequent", "map", "map_50_small", "map_50_medium", "map_50_large"),
    *("bpr", "mean_best_iou", "initial_shapes", "shapes", "offsets_mean", "offsets_std", "seconds", "commit"),
    "by_class",  # AP@.5 of each class with boxes, as VOC computes it; the first 56 runs were made without
)
MIN_BOXES = 50  # of a class in the reported split, for `map_50_frequent`


class Run(NamedTuple):
    """One training; `num` shapes."""

    set: str
    arm: str
    start: str
    seed: int
    num: int


def grid() -> list[Run]:
    """All runs, what is claimed first: eight seeds of three arms from two starts on every set."""
    from sets import CHOICES, OVERLAYS, SETS

    runs = list[Run]()
    main = ("baseline", "baseline-bn", "opt-soft-clust-bn")
    starts = ("kmeans", "uniform")
    for seed in range(8):
        runs += [Run(s, arm, start, seed, 5) for s in SETS for start in starts for arm in main]
        # What is left of the gain without learning: the soft assignment and the norm.
        runs += [Run("voc12", "full + fixed shapes", start, seed, 5) for start in starts]
    for seed in range(4):
        runs += [Run(s, arm, start, seed, 5) for s in SETS for start in starts for arm in OVERLAYS]
        runs += [Run(s, "full + fixed shapes", start, seed, 5) for s in SETS for start in starts]
        runs += [Run(s, arm, "identical", seed, 5) for s in SETS for arm in main]
        runs += [Run("aerial_cars", arm, "coco", seed, 5) for arm in main]
        runs += [Run("voc12", arm, "kmeans", seed, num) for num in (3, 7, 9) for arm in main]
        runs += [Run(s, arm, "kmeans", seed, 5) for s in ("voc12", "bccd") for arm in CHOICES]
    return list(dict.fromkeys(runs))


def train(run: Run, data: Path, weights: str, cache: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Trains and tests; a row of the CSV but for the commit."""
    import torch
    from cache import PackedFeatures, with_features
    from lightning.pytorch import Trainer, seed_everything
    from sets import BACKBONE, RECIPE, SETS, STARTS, WARM_UP_SHARE, arm_options

    from anchor_lightning import DetectionTask
    from anchor_lightning.anchors import AnchorOptions
    from anchor_lightning.callbacks import ClusteringDecay, SoftAssignment
    from anchor_lightning.fitting.score import score_shapes

    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "anchor_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    started = time.time()
    recipe = RECIPE | overrides
    real, options = SETS[run.set], arm_options(run.arm)
    steps = int(recipe.get("steps", real.steps))
    seed_everything(run.seed, verbose=False)
    module = real.module(data, run.seed)
    frozen = real.frozen_stages
    drop = int(steps * recipe["drop_at"])
    rate = recipe["learning_rate"]
    task = DetectionTask(
        num_classes=module.num_classes,
        class_names=module.class_names,
        detector={
            "class_path": options["class_path"],
            "init_args": {
                "backbone": BACKBONE,
                "backbone_weights": weights,
                "freeze_backbone": frozen,
                "backbone_lr_mult": recipe["backbone_lr_mult"],
                "width": recipe["width"],
                "prior_images": recipe["prior_images"],
                "objectness_init": recipe["objectness_init"],
                **options["detector"],
            },
        },
        anchors=AnchorOptions(
            init=STARTS[run.start],
            num=run.num if run.start in ("kmeans", "identical") else None,
            learn=options["learn"],
            lr_mult=recipe["lr_mult"],
        ),
        learning_rate={0: rate / 10, recipe["warm_up"]: rate, drop: rate / 10},
    )
    if frozen == "all":
        folder = feature_folder(cache, run.set, weights)
        backbone = task.detector.network.backbone
        module = with_features(module, folder)
        task.detector.network.backbone = PackedFeatures(*backbone.channels)
        task.detector.backbone_weights = None  # they are in the features
    schedules = [
        kind(**{**options[name], "steps": WARM_UP_SHARE if options[name]["steps"] else 0})
        for name, kind in (("soft_assignment", SoftAssignment), ("clustering", ClusteringDecay))
    ]
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        precision=real.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        gradient_clip_val=recipe["clip"],
        callbacks=schedules,
    )
    trainer.fit(task, datamodule=module)
    (metrics,) = trainer.test(task, datamodule=module, verbose=False)
    labels = [label for truth in module.ground_truth("test") for label in truth.labels[~truth.ignore].tolist()]
    frequent = [n for i, n in enumerate(module.class_names) if labels.count(i) >= MIN_BOXES]
    present = {n for i, n in enumerate(module.class_names) if i in set(labels)}
    by_class = [metrics[f"test/ap_voc/{name}"] for name in frequent]
    wh = task.shapes.wh.detach()
    score = score_shapes(module.train_box_shapes(), wh)
    offsets = positive_offsets(task, module)
    return {
        **run._asdict(),
        "steps": steps,
        "map_50_frequent": sum(by_class) / len(by_class) if by_class else float("nan"),
        **{name: metrics[f"test/{name}"] for name in COLUMNS if f"test/{name}" in metrics},
        "bpr": score.recall_ratio,
        "mean_best_iou": score.mean_best_iou,
        "initial_shapes": shapes_text(task.shapes.initial_wh),
        "shapes": shapes_text(wh),
        "offsets_mean": float(offsets.mean()),
        "offsets_std": float(offsets.std()),
        "seconds": round(time.time() - started),
        "by_class": "; ".join(f"{n} {metrics[f'test/ap_voc/{n}']:.4f}" for n in module.class_names if n in present),
    }


def positive_offsets(task: Any, module: Any) -> Any:
    """(N, 2) Δw, Δh that the network predicts for the assigned anchors of the test boxes."""
    import torch

    from anchor_lightning.anchors import assign

    found, network = [], task.detector.network.eval()
    with torch.no_grad():
        for batch in module.test_dataloader():
            predictions = network(module.on_after_batch_transfer(batch, 0).images)
            raw, log_wh = predictions.raw, task.shapes.log_wh
            grid = raw.shape[-2:]
            zero = torch.zeros(())
            assigned = assign(log_wh, batch.boxes_xyxy, batch.mask, grid, predictions.stride, zero, distance="iou")
            image, box = batch.mask.nonzero().T
            anchor, cell = assigned.delta[image, box].argmax(1), assigned.cell[image, box]
            found.append(raw.flatten(3)[image, anchor, 2:4, cell])
    return torch.cat(found)


def shapes_text(wh: Any) -> str:
    """`WxH` in pixels, the smallest first."""
    return " ".join(f"{w:.1f}x{h:.1f}" for w, h in sorted(wh.tolist(), key=lambda s: s[0] * s[1]))


def commit() -> str:
    """The commit that is checked out."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def done(path: Path) -> set[tuple[str, ...]]:
    """The keys of the runs in a CSV."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(row[name] for name in KEY) for row in csv.DictReader(file)}


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds one line, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    """Runs what is left of the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--weights", required=True, help="file of the backbone's weights")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "features", help="folder for features")
    parser.add_argument("--output", type=Path, default=RUNS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="*", default=[], help="KEY=VALUE, such as set=voc12 arm=baseline seed=0")
    parser.add_argument("--recipe", nargs="*", default=[], help="KEY=VALUE, another recipe; give another --output, too")
    parser.add_argument("--list", action="store_true", help="say what is left, and end")
    args = parser.parse_args()
    import yaml

    wanted = [pair.split("=", 1) for pair in args.only]
    overrides = {name: yaml.safe_load(value) for name, value in (pair.split("=", 1) for pair in args.recipe)}
    finished = done(args.output)
    todo = [r for r in grid() if tuple(map(str, r)) not in finished]
    todo = [r for r in todo if all(str(getattr(r, name)) in value.split(",") for name, value in wanted)]
    print(f"{len(todo)} runs are left, {len(finished)} are done.")
    if args.list:
        print(*todo, sep="\n")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the pool's processes end, too
    prepare(todo, args.data, args.weights, args.cache, args.jobs)
    context, revision, failed = multiprocessing.get_context("spawn"), commit(), 0
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        waiting = {pool.submit(train, r, args.data, args.weights, args.cache, overrides): r for r in todo}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    run = waiting.pop(future)
                    if (error := future.exception()) is not None:
                        failed += 1
                        print(f"{run} failed: {error!r}", flush=True)
                        continue
                    row = future.result() | {"commit": revision}
                    append(args.output, row)
                    scores = f"AP@.5 {row['map_50']:.4f}, frequent classes {row['map_50_frequent']:.4f}"
                    print(f"{run}: {scores}, {row['seconds']} s, {len(waiting)} left", flush=True)
        except BaseException:  # Ctrl+C and SIGTERM among them: what runs would go on else
            for process in multiprocessing.active_children():
                process.kill()
            raise
    sys.exit(min(failed, 1))


def feature_folder(cache: Path, name: str, weights: str) -> Path:
    """Where the features of a set lie that a file of weights gives."""
    from sets import BACKBONE, SETS

    return cache / f"{name}-{BACKBONE}-{SETS[name].image_size}-{zlib.crc32(Path(weights).read_bytes()):08x}"


def prepare(runs: list[Run], data: Path, weights: str, cache: Path, num_threads: int) -> None:
    """Computes the features of the sets whose backbone is frozen."""
    import torch
    from cache import build
    from sets import BACKBONE, SETS

    from anchor_lightning.detectors.timm_backbone import TimmBackbone

    for name in dict.fromkeys(run.set for run in runs):
        real, folder = SETS[name], feature_folder(cache, name, weights)
        if real.frozen_stages == "all" and not (folder / "test.npz").exists():
            backbone = TimmBackbone(BACKBONE)
            backbone.load(weights)
            torch.set_num_threads(num_threads)
            build(real.module(data, 0), backbone, folder)


if __name__ == "__main__":
    main()
