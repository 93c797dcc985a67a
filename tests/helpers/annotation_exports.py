"""Folders as labelling tools and services write them, each with the same box."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from anchor_lightning import data
from anchor_lightning.data import DetectionDataModule
from anchor_lightning.data.formats.detect import detect_data
from tests.helpers.tiny_data import write_image, write_text

WIDTH, HEIGHT = 60, 40
BOX = (12, 8, 42, 28)  # left, top, right, bottom in pixels of an image of 60 x 40
YOLO_LINE = "1 0.45 0.45 0.5 0.5"  # the same: centre (27, 18), sides 30 and 20
CLASSES = ["dog", "cat"]


def opened(path: Path, **options: object) -> DetectionDataModule:
    class_path, arguments = detect_data(path)
    module: DetectionDataModule = getattr(data, class_path)(**arguments, image_size=64, num_workers=0, **options)
    return module


def xml(name: str = "cat", box: Sequence[float] = BOX, more: str = "") -> str:
    """An annotation with a box counted from 0, as labelling tools write it, and one at the very corner."""
    text = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "</object>"
        for n, (x1, y1, x2, y2) in ((name, box), ("dog", (0, 0, 9, 9)))
    )
    return f"<annotation>{more}{text}</annotation>"


def coco(files: Sequence[str], first_id: int | str = 0, category_ids: Sequence[int | str] = (0, 1)) -> str:
    x1, y1, x2, y2 = BOX
    ids = [type(first_id)(int(first_id) + i) for i in range(len(files))]
    pairs = list(zip(ids, files, strict=True))
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in pairs]
    box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": None, "category_id": category_ids[-1]}
    annotations = [{"id": n, "image_id": i} | box for n, i in enumerate(ids)]
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, CLASSES, strict=True)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def roboflow_voc(root: Path) -> None:
    for split, count in (("train", 5), ("valid", 2), ("test", 1)):
        for i in range(count):
            write_image(root / split / f"{split}{i}_jpg.rf.{i}.jpg")
            write_text(root / split / f"{split}{i}_jpg.rf.{i}.xml", xml())


def roboflow_coco(root: Path) -> None:
    for split, count in (("train", 5), ("valid", 2), ("test", 1)):
        names = [write_image(root / split / f"{split}{i}.jpg").name for i in range(count)]
        write_text(root / split / "_annotations.coco.json", coco(names))


def roboflow_yolo(root: Path) -> None:
    for split, count in (("train", 5), ("valid", 2), ("test", 1)):
        for i in range(count):
            write_image(root / split / "images" / f"{split}{i}.jpg")
            write_text(root / split / "labels" / f"{split}{i}.txt", YOLO_LINE)
    write_text(root / "README.dataset.txt", "# x")
    places = "train: ../train/images\nval: ../valid/images\ntest: ../test/images"
    write_text(root / "data.yaml", f"{places}\n\nnc: 2\nnames: ['dog', 'cat']\n\nroboflow:\n  license: x\n")


def roboflow_darknet(root: Path) -> None:
    for split, count in (("train", 5), ("valid", 2), ("test", 1)):
        write_text(root / split / "_darknet.labels", "dog\ncat\n")
        for i in range(count):
            write_image(root / split / f"{split}{i}.jpg")
            write_text(root / split / f"{split}{i}.txt", YOLO_LINE)


def cvat_voc(root: Path) -> None:
    names = [f"cam {i % 2}/frame_{i:06d}" for i in range(5)]
    for name in names:
        write_image(root / "JPEGImages" / f"{name}.PNG")
        write_text(root / "Annotations" / f"{name}.xml", xml(more="<folder></folder>"))
    write_text(root / "ImageSets" / "Main" / "default.txt", "\n".join(names) + "\n")
    write_text(root / "labelmap.txt", "# label:color_rgb:parts:actions\n")


def cvat_yolo(root: Path) -> None:
    names = [f"data/obj_train_data/frame {i}.jpg" for i in range(5)]
    for name in names:
        file = root / name.removeprefix("data/")
        write_image(file)
        write_text(file.with_suffix(".txt"), YOLO_LINE)
    write_text(root / "train.txt", "\n".join(names) + "\n")
    write_text(root / "obj.names", "dog\ncat\n")
    write_text(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")


def cvat_coco(root: Path) -> None:
    names = [write_image(root / "images" / "default" / f"{i}.jpg").name for i in range(5)]
    write_text(root / "annotations" / "instances_default.json", coco(names, first_id=1, category_ids=(1, 2)))


def label_studio(root: Path) -> None:
    names = [f"images\\{write_image(root / 'images' / f'90fb-a b.{i}.jpg').name}" for i in range(5)]
    write_text(root / "result.json", coco(names))


def label_studio_yolo(root: Path) -> None:
    for i in range(5):
        write_image(root / "images" / f"90fb-{i}.jpg")
        write_text(root / "labels" / f"90fb-{i}.txt", YOLO_LINE)
    write_text(root / "classes.txt", "dog\ncat\n")
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    write_text(root / "notes.json", json.dumps({"categories": categories, "info": {"year": 2026}}))


def pylabel(root: Path) -> None:
    names = [write_image(root / "images" / f"{i}.jpg").name for i in range(5)]
    write_text(root / "dataset.json", coco(names, first_id="0", category_ids=("0", "1")))


def labelimg_voc(root: Path) -> None:
    for i in range(5):
        write_image(root / f"a.b {i}.jpg")
        write_text(root / f"a.b {i}.xml", xml(more=f"<filename>a.b {i}.jpg</filename>"))


def labelimg_yolo(root: Path) -> None:
    for i in range(5):
        write_image(root / f"{i}.JPG")
        write_text(root / f"{i}.txt", YOLO_LINE)
    write_text(root / "classes.txt", "dog\ncat\n")


def darknet_voc(root: Path) -> None:
    for i in range(5):
        write_image(root / "JPEGImages" / f"{i}.jpg")
        write_text(root / "labels" / f"{i}.txt", YOLO_LINE)
    write_text(root / "train.txt", "".join(f"/home/else/VOC2007/JPEGImages/{i}.jpg\n" for i in range(5)))
    write_text(root / "voc.names", "dog\ncat\n")
    write_text(root / "voc.data", "classes=2\ntrain=/home/else/VOC2007/train.txt\nnames=voc.names\n")


def plain_voc(root: Path) -> None:
    for i in range(5):
        write_image(root / "images" / f"{i}.jfif")
        write_text(root / "annots" / f"{i}.xml", xml())
