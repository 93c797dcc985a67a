"""Tiny data sets in the layouts of the shipped configurations, drawn on the spot; every second box is of class 1."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from tests.helpers.tiny_data import write_text

SIZE = (96, 128)  # height, width
Box = tuple[float, float, float, float]


def draw(path: Path, seed: int, size: tuple[int, int] = SIZE) -> list[Box]:
    """Writes a noise image with two filled rectangles and returns their corners."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    boxes: list[Box] = []
    for _ in range(2):
        w, h = rng.integers(16, 50, 2).tolist()
        x, y = int(rng.integers(0, size[1] - w)), int(rng.integers(0, size[0] - h))
        image[y : y + h, x : x + w] = rng.integers(120, 255, 3)
        boxes.append((x, y, x + w, y + h))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return boxes


def voc_text(boxes: Sequence[Box]) -> str:
    """An annotation with classes dog and cat, whose corners are 1-based and inclusive."""
    objects = "".join(
        f"<object><name>{('dog', 'cat')[i % 2]}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin>"
        f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for i, (x1, y1, x2, y2) in enumerate(boxes)
    )
    return f"<annotation>{objects}</annotation>"


def make_voc(root: Path, num: int = 4) -> Path:
    """A devkit with 2007 and 2012."""
    lists = ((2007, 0, "trainval"), (2007, 1, "test"), (2012, 0, "trainval"), (2012, 1, "train"), (2012, 2, "val"))
    for year, part, split in lists:
        folder = root / f"VOC{year}"
        names = [f"{year}_{part}{index:04d}" for index in range(num)]
        for index, name in enumerate(names):
            boxes = draw(folder / "JPEGImages" / f"{name}.jpg", seed=1000 * year + 100 * part + index)
            write_text(folder / "Annotations" / f"{name}.xml", voc_text(boxes))
        write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names) + "\n")
    return root


def coco_text(boxes: Mapping[int, Sequence[Box]]) -> str:
    """The annotations of images by their ids, with category ids 3 and 17."""
    annotations = [
        {"id": 10 * image_id + i, "image_id": image_id, "category_id": (3, 17)[i % 2], "iscrowd": 0}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        for image_id, of_image in boxes.items()
        for i, (x1, y1, x2, y2) in enumerate(of_image)
    ]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in boxes]
    categories = [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def make_coco(root: Path, num: int = 4) -> Path:
    """instances_{train,val}2017.json."""
    for first, split in ((1, "train2017"), (101, "val2017")):
        boxes = {i: draw(root / split / f"{i:012d}.jpg", seed=i) for i in range(first, first + num)}
        write_text(root / "annotations" / f"instances_{split}.json", coco_text(boxes))
    return root


def make_coco_test(root: Path, num: int = 3) -> Path:
    """image_info_test-dev2017.json, which lists images and holds no annotations, and test2017."""
    content = json.loads(coco_text({i: draw(root / "test2017" / f"{i:012d}.jpg", i) for i in range(201, 201 + num)}))
    del content["annotations"]
    write_text(root / "annotations" / "image_info_test-dev2017.json", json.dumps(content))
    return root


def idl_line(name: str, boxes: Sequence[Box]) -> str:
    """What a list of Brainwash says of an image."""
    return f'"{name}": ' + ", ".join(str(tuple(map(float, box))) for box in boxes)


def make_brainwash(root: Path, num: int = 4) -> Path:
    """brainwash_{train,val,test}.idl."""
    for part, split in enumerate(("train", "val", "test")):
        names = [f"images_{split}/{index:08d}_128x96.png" for index in range(num)]
        lines = [idl_line(name, draw(root / name, seed=1000 * part + index)) for index, name in enumerate(names)]
        (root / f"brainwash_{split}.idl").write_text(";\n".join(lines) + ".\n")
    return root


def yolo_text(boxes: Sequence[Box]) -> str:
    """Labels with centres and sides as shares."""
    return "".join(
        f"{i % 2} {(x1 + x2) / 2 / SIZE[1]} {(y1 + y2) / 2 / SIZE[0]} {(x2 - x1) / SIZE[1]} {(y2 - y1) / SIZE[0]}\n"
        for i, (x1, y1, x2, y2) in enumerate(boxes)
    )


def make_yolo(root: Path, num: int = 4) -> Path:
    """images/{train,val}, labels/{train,val} and a data.yaml with the classes dog and cat."""
    for part, split in enumerate(("train", "val")):
        for index in range(num):
            name = f"{part}{index:04d}"
            boxes = draw(root / "images" / split / f"{name}.jpg", seed=5000 + 100 * part + index)
            write_text(root / "labels" / split / f"{name}.txt", yolo_text(boxes))
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: dog\n  1: cat\n")
    return root
