"""Mean best IoU and seconds of the ways to choose anchor shapes, on the same boxes, as a markdown table.

    python benchmarks/anchor_methods.py voc0712_boxes.csv.gz [--num 5 9] [--threads 1] [--image_size 416]

The argument is a CSV of boxes (columns xmin, ymin, xmax, ymax; optionally gzipped) of images whose long side is 500
pixels, which are scaled to `--image_size`, or a data set that `anchors fit --data` knows. As another judge, k-means and
genetic evolution as YOLOv5's users run them are written anew here after their published description: Euclidean k-means
on sides divided by their standard deviation, then 1,000 mutations of which those are kept that raise YOLOv5's fitness.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import anchor_lightning.data as data_modules
from anchor_lightning.commands.anchors import fit_shapes
from anchor_lightning.commands.data_options import box_shapes
from anchor_lightning.data.formats.detect import detect_data
from anchor_lightning.fitting.ascent import score_exactly
from anchor_lightning.fitting.score import score_shapes

CSV_LONG_SIDE = 500
GENERATIONS, THRESHOLD = 1000, 4.0


def read_boxes(path: Path, image_size: int) -> tuple[Tensor, float]:
    """(N, 2) boxes in pixels of the network input, and their mean number in an image."""
    if path.is_file() and path.name.endswith((".csv", ".csv.gz")):
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            rows = list(csv.DictReader(file))
        sides = [(float(r["xmax"]) - float(r["xmin"]), float(r["ymax"]) - float(r["ymin"])) for r in rows]
        images = {(r["split"], r["image_id"]) for r in rows}
        return torch.tensor(sides) * image_size / CSV_LONG_SIDE, len(rows) / len(images)
    name, arguments = detect_data(path)
    data = getattr(data_modules, name)(**arguments, image_size=image_size)
    boxes, _ = box_shapes(data)
    return boxes, len(boxes) / len(data.records("train"))


def evolved_shapes(boxes: Tensor, num: int, seed: int = 0) -> Tensor:
    """(num, 2) shapes from Euclidean k-means and genetic evolution on YOLOv5's fitness."""
    generator = torch.Generator().manual_seed(seed)
    scaled = boxes / boxes.std(0)
    centres = scaled[torch.randperm(len(scaled), generator=generator)[:num]]
    for _ in range(30):
        nearest = torch.cdist(scaled, centres).argmin(1)
        total = torch.zeros_like(centres).index_add_(0, nearest, scaled)
        count = nearest.bincount(minlength=num)[:, None]
        centres = torch.where(count > 0, total / count.clamp_min(1), centres)
    best = centres * boxes.std(0)
    best_fitness = fitness(boxes, best)
    for _ in range(GENERATIONS):
        drawn = torch.rand(num, 2, generator=generator) < 0.9
        strength = 0.1 * torch.rand(1, generator=generator)
        factor = 1 + drawn * strength * torch.randn(num, 2, generator=generator)
        child = (best * factor.clamp(0.3, 3.0)).clamp_min(2.0)
        if (value := fitness(boxes, child)) > best_fitness:
            best, best_fitness = child, value
    return best


def fitness(boxes: Tensor, wh: Tensor) -> float:
    """Mean of the boxes' worst side ratio to their best shape, where it is within the threshold."""
    ratio = boxes[:, None] / wh
    best = ratio.minimum(1 / ratio).amin(2).amax(1)
    return float((best * (best > 1 / THRESHOLD)).mean())


def main() -> None:
    """Runs every method and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("boxes", type=Path)
    parser.add_argument("--num", type=int, nargs="+", default=[5, 9])
    parser.add_argument("--image_size", type=int, default=416)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    boxes, per_image = read_boxes(options.boxes, options.image_size)
    size = (options.image_size, options.image_size)
    print(f"{len(boxes):,} boxes at {options.image_size} pixels, {options.threads} threads\n")
    print("| shapes | method | mean best IoU | recall at IoU 0.5 | recall at ratio 4 | seconds | of the CPU |")
    print("|---|---|---|---|---|---|---|")
    fit_shapes(boxes[:1000], 2, "ascent", size, per_image)  # the first use of autograd loads libraries
    for num in options.num:
        methods: dict[str, Callable[[], Tensor]] = {
            "IoU k-means": lambda num=num: fit_shapes(boxes, num, "kmeans", size, per_image),
            "gradient ascent": lambda num=num: fit_shapes(boxes, num, "ascent", size, per_image),
            "learned, the paper's schedule": lambda num=num: fit_shapes(boxes, num, "learned", size, per_image),
            "YOLOv5-style k-means + evolution": lambda num=num: evolved_shapes(boxes, num),
        }
        for name, method in methods.items():
            begin, begin_cpu = time.perf_counter(), time.process_time()
            wh = method()
            seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
            score = score_shapes(boxes, wh)
            print(
                f"| {num} | {name} | {score_exactly(boxes, wh):.4f} | {score.recall_iou:.4f} | "
                f"{score.recall_ratio:.4f} | {seconds:.2f} | {cpu:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
