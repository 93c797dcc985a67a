"""Seconds of one evaluation: what may compute COCO's numbers side by side, and the VOC average precision.

    python benchmarks/coco_backends.py --images 1000 --detections 100 --classes 20 --repeats 5

They take turns on the same made scene, pycocotools and hotcoco where they are installed; ratios are taken turn by turn.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
from functools import partial
from typing import Any

import numpy as np
import torch
from turns import ratio_line, take_turns

from anchor_lightning.metrics import coco
from anchor_lightning.metrics.voc import voc_average_precision
from anchor_lightning.structures import Detections, GroundTruth

PEERS = {"pycocotools": ("pycocotools.coco", "pycocotools.cocoeval"), "hotcoco": ("hotcoco", "hotcoco")}
Scene = tuple[list[GroundTruth], dict[int, Detections]]


def make_scene(num_images: int, num_detections: int, num_classes: int) -> Scene:
    """Images of 640 x 480 with seven boxes on average; detections near them, half of them of the right class."""
    rng = np.random.default_rng(0)
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
        found = torch.from_numpy(found_xyxy).float(), torch.from_numpy(scores).float(), torch.from_numpy(found_labels)
        detections[image_id] = Detections(*found, torch.zeros(num_detections, dtype=torch.int64))
    return ground_truths, detections


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in {"images": 1000, "detections": 100, "classes": 20, "repeats": 5}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    args = parser.parse_args()
    scene = make_scene(args.images, args.detections, args.classes)
    print(f"{args.images} images x {args.detections} detections, {args.classes} classes, {args.repeats} turns")
    maps: dict[str, float] = {}

    def evaluate(name: str, dataset: Any, evaluation: Any) -> None:
        # Not every backend takes the `print_function` that keeps it silent.
        coco.COCO, coco.COCOeval = lambda **_: dataset(), lambda *data, **_: evaluation(*data)
        with contextlib.redirect_stdout(None):
            maps[name] = coco.coco_average_precision(*scene, args.classes).summary["map"]

    backends = {"faster_coco_eval": (coco.COCO, coco.COCOeval)}
    for name, (data, evaluation) in PEERS.items():
        if importlib.util.find_spec(name):
            module = importlib.import_module(evaluation)
            backends[name] = importlib.import_module(data).COCO, module.COCOeval
        else:
            print(f"{name} is not installed")
    steps = {name: partial(evaluate, name, *classes) for name, classes in backends.items()}
    seconds = take_turns(steps | {"voc": partial(voc_average_precision, *scene, args.classes)}, args.repeats, warm_up=0)
    ours = seconds.pop("faster_coco_eval")
    for name, turns in seconds.items():
        print(ratio_line("COCO mAP with faster_coco_eval", ours, name, turns))
    print(", ".join(f"map of {name} {value!r}" for name, value in maps.items()))


if __name__ == "__main__":
    main()
