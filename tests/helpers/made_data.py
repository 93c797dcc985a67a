"""Tiny data sets in the layouts of the shipped configurations, drawn on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from tests.helpers.tiny_data import write_text

SIZE = (96, 128)  # height, width
CATEGORIES = [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]

Box = tuple[int, int, int, int]


def draw(path: Path, seed: int, size: tuple[int, int] = SIZE) -> list[Box]:
    """Writes a noise image with two filled rectangles and returns their corners."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    boxes: list[Box] = []
    for _ in range(2):
        w, h = (int(v) for v in rng.integers(16, 50, 2))
        x, y = int(rng.integers(0, size[1] - w)), int(rng.integers(0, size[0] - h))
        image[y : y + h, x : x + w] = rng.integers(120, 255, 3)
        boxes.append((x, y, x + w, y + h))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return boxes


def make_voc(root: Path, num: int = 4) -> Path:
    """A devkit with 2007 and 2012; classes dog and cat, 1-based inclusive corners."""
    for year, splits in ((2007, ("trainval", "test")), (2012, ("trainval", "train", "val"))):
        folder = root / f"VOC{year}"
        for part, split in enumerate(splits):
            names = [f"{year}_{part}{index:04d}" for index in range(num)]
            for index, name in enumerate(names):
                boxes = draw(folder / "JPEGImages" / f"{name}.jpg", seed=1000 * year + 100 * part + index)
                objects = "".join(
                    f"<object><name>{('dog', 'cat')[i]}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin>"
                    f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                    for i, (x1, y1, x2, y2) in enumerate(boxes)
                )
                write_text(folder / "Annotations" / f"{name}.xml", f"<annotation>{objects}</annotation>")
            write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names) + "\n")
    return root


def make_coco(root: Path, num: int = 4) -> Path:
    """instances_{train,val}2017.json with category ids 3 and 17."""
    for part, split in enumerate(("train2017", "val2017")):
        images, annotations = [], []
        for index in range(num):
            image_id = 100 * part + index + 1
            boxes = draw(root / split / f"{image_id:012d}.jpg", seed=image_id)
            images.append({"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": SIZE[0], "width": SIZE[1]})
            for i, (x1, y1, x2, y2) in enumerate(boxes):
                annotation = {"image_id": image_id, "category_id": (3, 17)[i], "bbox": [x1, y1, x2 - x1, y2 - y1]}
                annotation |= {"id": 10 * image_id + i, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                annotations.append(annotation)
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        write_text(root / "annotations" / f"instances_{split}.json", json.dumps(content))
    return root


def make_coco_test(root: Path, num: int = 3) -> Path:
    """image_info_test-dev2017.json, which lists images and holds no annotations, and test2017."""
    images = []
    for image_id in range(201, 201 + num):
        draw(root / "test2017" / f"{image_id:012d}.jpg", seed=image_id)
        images.append({"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": SIZE[0], "width": SIZE[1]})
    content = {"info": {}, "licenses": [], "images": images, "categories": CATEGORIES}
    write_text(root / "annotations" / "image_info_test-dev2017.json", json.dumps(content))
    return root


def make_brainwash(root: Path, num: int = 4) -> Path:
    """brainwash_{train,val,test}.idl."""
    for part, split in enumerate(("train", "val", "test")):
        lines = []
        for index in range(num):
            name = f"images_{split}/{index:08d}_128x96.png"
            boxes = draw(root / name, seed=1000 * part + index)
            lines.append(f'"{name}": ' + ", ".join(f"({x1}.0, {y1}.0, {x2}.0, {y2}.0)" for x1, y1, x2, y2 in boxes))
        (root / f"brainwash_{split}.idl").write_text(";\n".join(lines) + ".\n")
    return root


def make_yolo(root: Path, num: int = 4) -> Path:
    """images/{train,val}, labels/{train,val} and a data.yaml with the classes dog and cat."""
    for part, split in enumerate(("train", "val")):
        for index in range(num):
            name = f"{part}{index:04d}"
            boxes = draw(root / "images" / split / f"{name}.jpg", seed=5000 + 100 * part + index)
            lines = [
                f"{i} {(x1 + x2) / 2 / SIZE[1]} {(y1 + y2) / 2 / SIZE[0]} {(x2 - x1) / SIZE[1]} {(y2 - y1) / SIZE[0]}"
                for i, (x1, y1, x2, y2) in enumerate(boxes)
            ]
            write_text(root / "labels" / split / f"{name}.txt", "\n".join(lines) + "\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: dog\n  1: cat\n")
    return root
