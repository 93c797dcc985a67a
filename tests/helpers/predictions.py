"""A checkpoint of a detector of cats and dogs, images and a video for `predict`, and the command itself."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch

from anchor_lightning.cli import main
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.task import DetectionTask
from tests.helpers.checkpoints import save_task
from tests.helpers.made_data import draw

SIZE = (64, 96)
CHECKPOINT = Path("runs/version_0/checkpoints/last.ckpt")


def make_checkpoint(path: Path = CHECKPOINT, kind: type[YOLO] = YOLOv2, **details: Any) -> Path:
    """Of an untrained detector, as a run would leave it."""
    torch.manual_seed(0)
    task = DetectionTask(num_classes=2, class_names=["cat", "dog"], detector=partial(kind, width=0.1))
    shapes = [[20.0, 30], [40, 20], [50, 50], [15, 15], [60, 30], [30, 60], [50, 20], [80, 60], [60, 60]]
    task.shapes.set_initial(torch.tensor(shapes[: len(task.shapes.wh)]))
    with torch.no_grad():  # as if it were sure of some boxes, and each image must differ
        for head in task.detector.network.heads:
            head.rest.weight.mul_(20)
    return save_task(task, path, **{"image_size": list(SIZE), "images_seen": 8} | details)


def make_images(folder: str, *names: str, size: tuple[int, int] = (96, 128)) -> Path:
    for seed, name in enumerate(names):
        draw(Path(folder) / name, seed, size)
    return Path(folder)


def make_video(path: str, num: int = 5) -> Path:
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 12.5, (128, 96))
    for seed in range(num):
        draw(Path("frames") / f"{seed}.png", seed)
        writer.write(cv2.imread(f"frames/{seed}.png"))
    writer.release()
    return Path(path)


def predict(*args: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    results = main(["predict", "--ckpt_path", "runs/version_0/checkpoints/last.ckpt", "--device", "cpu", *args])
    return json.loads(results.read_text()), json.loads((results.parent / "images.json").read_text())


def everything(folder: str) -> list[str]:
    """Names of what a folder holds."""
    return sorted(path.name for path in Path(folder).iterdir())
