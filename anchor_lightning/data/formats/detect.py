"""The data module that reads a folder or file, by the layout found there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anchor_lightning.data.formats.voc import SET_FOLDERS
from anchor_lightning.errors import UserError

Found = tuple[str, dict[str, Any]]  # the name of a data module's class, and its arguments


def detect_data(path: Path) -> Found:
    """The data module for a folder in the style of VOC, COCO, YOLO or Brainwash, a COCO-JSON file or a `data.yaml`.

    Raises:
        UserError: It is none of these; says what was looked for.
    """
    if path.is_file():
        if path.suffix.lower() == ".json":
            return "COCODataModule", _coco_file(path)
        if path.suffix.lower() in (".yaml", ".yml"):
            return "YOLODataModule", {"data_yaml": str(path)}
        raise UserError(f"{path} is neither a COCO .json nor a YOLO data.yaml, nor a folder", argument="data")
    found = _voc(path) or _coco(path) or _yolo(path)
    if found is None and (path / "brainwash_train.idl").is_file():
        found = "BrainwashDataModule", {"root": str(path)}
    if found is None:
        raise UserError(
            f"{path} looks like no data set that is known; looked for Annotations and JPEGImages or VOC2007, VOC2012 "
            "(VOC), annotations/*.json (COCO), data.yaml or images and labels (YOLO). Give the folder that holds "
            "these, a COCO .json, a data.yaml, or a data module and its root",
            argument="data",
        )
    return found


def _voc(folder: Path) -> Found | None:
    if all((folder / name).is_dir() for name in SET_FOLDERS[:2]):
        return "VOCDataModule", {"root": str(folder), **_voc_split(folder)}
    devkit = folder / "VOCdevkit" if (folder / "VOCdevkit").is_dir() else folder
    years = [year for year in (2007, 2012) if (devkit / f"VOC{year}").is_dir()]
    return ("VOCDataModule", {"root": str(folder), "years": years}) if years else None


def _voc_split(folder: Path) -> dict[str, str]:
    lists = folder / SET_FOLDERS[2]
    if not lists.is_dir():
        raise UserError(
            f"{folder} has VOC's Annotations and JPEGImages but no {SET_FOLDERS[2]}; put a train.txt there, the names "
            "of the training images without suffix, one a line",
            argument="data",
        )
    has_default = (lists / "train.txt").is_file() or not (lists / "trainval.txt").is_file()
    return {} if has_default else {"train_split": "trainval"}


def _coco(folder: Path) -> Found | None:
    files = sorted((folder / "annotations").glob("*.json"))
    beside = folder / "train" / "_annotations.coco.json"  # how Roboflow exports
    if not files and beside.is_file():
        files = [beside]
    if not files:
        return None
    training = [file for file in files if "train" in str(file.relative_to(folder))]
    boxes = [file for file in training if file.name.startswith("instances")]
    chosen = boxes or training or files
    if len(chosen) > 1:
        names = ", ".join(file.name for file in chosen)
        raise UserError(f"{folder / 'annotations'} has several candidates ({names}); give one of them", argument="data")
    return "COCODataModule", _coco_file(chosen[0])


def _coco_file(file: Path) -> dict[str, Any]:
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    name = file.stem.removeprefix("instances_")
    folders = (root / name, root / "images" / name, root / "images", root)
    # Boxes need no image: where none are found, the folder itself stands in.
    images = next(folder for folder in folders if folder.is_dir())
    return {"root": str(root), "train_annotations": str(file.relative_to(root)), "train_images": str(images)}


def _yolo(folder: Path) -> Found | None:
    if (folder / "data.yaml").is_file():  # without root, so that its `path` counts
        return "YOLODataModule", {"data_yaml": str(folder / "data.yaml")}
    if (folder / "labels").is_dir() or (folder / "train" / "labels").is_dir():
        return "YOLODataModule", {"root": str(folder)}
    return None
