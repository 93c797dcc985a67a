"""Seconds of one evaluation: the COCO backends side by side, and the VOC average precision.

    python benchmarks/coco_backends.py --images 1000 --detections 100 --classes 20 --repeats 5

The backends take turns on the same made scene; ratios are taken turn by turn, so that other load slows all. Where the
package hotcoco is installed, which the project does not depend on, it takes its turn as a third backend.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import statistics
import time
from typing import Any

import numpy as np
import torch

from anchor_lightning.metrics import COCOResult, coco, coco_average_precision, voc_average_precision
from anchor_lightning.structures import Detections, GroundTruth

Scene = tuple[list[GroundTruth], dict[int, Detections]]


def make_scene(num_images: int, num_detections: int, num_classes: int, seed: int = 0) -> Scene:
    """Images of 640 x 480 pixels with seven boxes on average, and detections scattered about those boxes.

    Args:
        num_images: Images, with ids from 1.
        num_detections: Detections an image; half carry the class of the box that they lie near.
        num_classes: C > 0.
        seed: Of the scene.

    Returns:
        The ground truth boxes, and the detections by image id.
    """
    rng = np.random.default_rng(seed)
    ground_truths, detections = [], {}
    for image_id in range(1, num_images + 1):
        count = int(rng.integers(1, 14))
        left_top = rng.uniform(0, (600, 440), (count, 2))
        boxes_xyxy = np.concatenate([left_top, left_top + np.exp(rng.uniform(2, 5.5, (count, 2)))], 1)
        labels = rng.integers(0, num_classes, count)
        area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)
        ground_truths.append(GroundTruth(image_id, boxes_xyxy, labels, rng.random(count) < 0.05, area))

        near = rng.integers(0, count, num_detections)
        found_xyxy = boxes_xyxy[near] + rng.normal(0, 6, (num_detections, 4))
        found_xyxy[:, 2:] = np.maximum(found_xyxy[:, 2:], found_xyxy[:, :2] + 1)
        right_class = rng.random(num_detections) < 0.5
        found_labels = np.where(right_class, labels[near], rng.integers(0, num_classes, num_detections))
        scores = np.sort(rng.random(num_detections))[::-1].copy()
        detections[image_id] = Detections(
            torch.from_numpy(found_xyxy).float(),
            torch.from_numpy(scores).float(),
            torch.from_numpy(found_labels),
            torch.zeros(num_detections, dtype=torch.int64),
        )
    return ground_truths, detections


def same_numbers(one: COCOResult, other: COCOResult) -> bool:
    """Whether two results agree to 12 digits, NaN for NaN."""
    pairs = [(one.summary[key], other.summary[key]) for key in one.summary]
    pairs += list(zip(one.ap.tolist(), other.ap.tolist(), strict=True))
    return all(a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-12) for a, b in pairs)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100, help="an image")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    ground_truths, detections = make_scene(args.images, args.detections, args.classes)
    print(f"{args.images} images x {args.detections} detections, {args.classes} classes, {args.repeats} turns")

    backends: list[Any] = ["pycocotools", "faster_coco_eval"]
    if importlib.util.find_spec("hotcoco"):
        hotcoco = importlib.import_module("hotcoco")
        coco._BACKENDS["hotcoco"] = (hotcoco.COCO, hotcoco.COCOeval)  # it has the interface of the others
        backends.append("hotcoco")
    seconds: dict[str, list[float]] = {backend: [] for backend in backends}
    results: dict[str, COCOResult] = {}
    warm_up = make_scene(5, 5, 2)
    for backend in backends:
        coco_average_precision(*warm_up, 2, backend)
    for repeat in range(args.repeats):
        for backend in backends if repeat % 2 == 0 else backends[::-1]:
            start = time.perf_counter()
            results[backend] = coco_average_precision(ground_truths, detections, args.classes, backend)
            seconds[backend].append(time.perf_counter() - start)
    for backend in backends:
        print(f"{backend:17} {statistics.median(seconds[backend]):7.2f} s (median)")
    slowest = backends[0]
    for backend in backends[1:]:
        ratios = [slow / fast for slow, fast in zip(seconds[slowest], seconds[backend], strict=True)]
        print(f"{slowest} / {backend}, turn by turn: median {statistics.median(ratios):.2f}, ", end="")
        print(f"range {min(ratios):.2f} to {max(ratios):.2f}", end="; ")
        print(f"same numbers to 12 digits: {same_numbers(results[slowest], results[backend])}")

    voc_seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        voc_average_precision(ground_truths, detections, args.classes)
        voc_seconds.append(time.perf_counter() - start)
    print(f"{'voc':17} {statistics.median(voc_seconds):7.2f} s (median)")


if __name__ == "__main__":
    main()
