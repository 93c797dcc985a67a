"""The data module that reads a folder or file, by the layout found there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from anchor_lightning.data.formats.places import expand, files_below, is_image
from anchor_lightning.data.formats.voc_layout import find_layout
from anchor_lightning.data.formats.yolo_files import CLASSES_FILES, DARKNET_SUFFIX, SPLIT_NAMES
from anchor_lightning.errors import UserError

Found = tuple[str, dict[str, Any]]  # the name of a data module's class, and its arguments
ROBOFLOW: Final = "_annotations.coco.json"
COCO_TRAIN: Final = ("train2017", "train")  # folders of images of a training split
VOC: Final = "VOCDataModule"
COCO: Final = "COCODataModule"
YOLO: Final = "YOLODataModule"
BRAINWASH: Final = "BrainwashDataModule"
YAML_SUFFIXES: Final = (".yaml", ".yml")
LOOKED_FOR: Final = (
    "VOC's .xml (in Annotations beside JPEGImages, in annots or annotations beside images, beside the images in one "
    "folder or in train, valid and test, or VOC2007 and VOC2012), COCO's .json (in annotations, beside images, or "
    f"{ROBOFLOW} in train), and YOLO's .txt (a data.yaml or .data, images and labels, train/images, or beside images)"
)


def detect_data(given: str | Path) -> Found:
    """The data module for a folder in the style of VOC, COCO, YOLO or Brainwash, a COCO-JSON file or a `data.yaml`.

    Raises:
        UserError: It is none of these; says what was looked for.
    """
    path = expand(given)
    if path.is_file():
        if path.suffix.lower() == ".json":
            return _coco_file(path)
        if path.suffix.lower() in (*YAML_SUFFIXES, DARKNET_SUFFIX):
            return YOLO, {"data_yaml": str(path)}
        raise UserError(f"{path} is neither a COCO .json nor a YOLO data.yaml or .data, nor a folder", argument="data")
    found = _voc(path) or _coco(path) or _yolo(path)
    if found is None and (path / "brainwash_train.idl").is_file():
        found = BRAINWASH, {"root": str(path)}
    if found is None:
        raise UserError(
            f"{path} holds no data set that is known; looked for {LOOKED_FOR}. Give the folder that holds these, a "
            "COCO .json, a data.yaml, or a data module and its root",
            argument="data",
        )
    return found


def other_kind(root: Path, own: str) -> str | None:
    """A sentence that says of which other kind than its `own` a folder is; None if it is of no other."""
    with suppress(UserError):
        kind, _ = detect_data(root)
        if kind != own:
            return f"{root} is no set of {own} but of {kind}: give it as --data {root}."
    return None


def _voc(folder: Path) -> Found | None:
    devkit = folder / "VOCdevkit" if (folder / "VOCdevkit").is_dir() else folder
    if years := [year for year in (2007, 2012) if (devkit / f"VOC{year}").is_dir()]:
        return VOC, {"root": str(folder), "years": years}
    return (VOC, {"root": str(folder)}) if find_layout(folder) else None


def _coco(folder: Path) -> Found | None:
    """COCO's own layout, Roboflow's, or one file beside the images or their folder (Label Studio, CVAT)."""
    beside = {
        role: file for role, names in SPLIT_NAMES.items() for n in names if (file := folder / n / ROBOFLOW).is_file()
    }
    if beside:
        return _coco_splits(folder, {role: (file, file.parent) for role, file in beside.items()})
    inside = sorted(file for file in (folder / "annotations").glob("*.json") if not file.name.startswith("."))
    files = inside or sorted(f for f in folder.glob("*.json") if not f.name.startswith(".") and _is_coco(f))
    by_role = {role: _of_role(files, names) for role, names in SPLIT_NAMES.items()}
    splits = {role: (file, _images_of(folder, file)) for role, file in by_role.items() if file is not None}
    if "train" in splits:
        return _coco_splits(folder, splits)
    if splits and any((folder / "images" / name).is_dir() for name in COCO_TRAIN) and (found := _yolo(folder)):
        return found  # COCO as ultralytics unpacks it: the labels of training are YOLO's
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{files[0].parent} has several candidates ({names}); give one of them", argument="data")
    return _coco_splits(folder, {"train": (files[0], _images_of(folder, files[0]))}) if files else None


def _of_role(files: list[Path], names: tuple[str, ...]) -> Path | None:
    """The file of boxes of a split; those of keypoints, captions and people are others.

    An image_info has no boxes: alone it serves `predict`, beside others of the split it is passed over.
    """
    found = [file for file in files if any(name in file.stem for name in names)]
    lists = [file for file in found if file.name.startswith("image_info")]
    others = [file for file in found if file not in lists] or lists * (len(lists) == 1)
    boxes = [file for file in others if file.name.startswith("instances")] or others
    if len(boxes) > 1:
        listed = ", ".join(file.name for file in boxes)
        raise UserError(f"{boxes[0].parent} has several candidates ({listed}); give one of them", argument="data")
    return boxes[0] if boxes else None


def _is_coco(file: Path) -> bool:
    """Whether a JSON file has COCO's lists; package.json and Label Studio's notes.json have not."""
    content = file.read_bytes()
    return b'"images"' in content and b'"categories"' in content


def _coco_file(file: Path) -> Found:
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    return _coco_splits(root, {"train": (file, _images_of(root, file))})


def _images_of(root: Path, file: Path) -> Path:
    name = file.stem.removeprefix("instances_")
    folders = (root / name, root / "images" / name, root / "images", root)
    # Boxes need no image: where none are found, the folder itself stands in.
    return next(folder for folder in folders if folder.is_dir())


def _coco_splits(root: Path, splits: dict[str, tuple[Path, Path]]) -> Found:
    arguments = {"root": str(root)}
    for role, (file, images) in splits.items():
        arguments |= {
            f"{role}_annotations": file.relative_to(root).as_posix(),
            f"{role}_images": images.relative_to(root).as_posix(),
        }
    return COCO, arguments


def _yolo(folder: Path) -> Found | None:
    for suffix in (*YAML_SUFFIXES, DARKNET_SUFFIX):
        files = sorted(file for file in folder.glob(f"*{suffix}") if not file.name.startswith("."))
        files = [file for file in files if file.stem == "data"] or files
        if len(files) == 1 and _names_a_split(files[0]):  # without root, so that its `path` counts
            return YOLO, {"data_yaml": str(files[0])}
    has_folders = (folder / "labels").is_dir() or (folder / "train" / "labels").is_dir()
    return (YOLO, {"root": str(folder)}) if has_folders or _has_pairs(folder) else None


def _names_a_split(file: Path) -> bool:
    with file.open("rb") as opened:
        return any(line.split(b"=")[0].split(b":")[0].strip() in (b"train", b"val", b"valid") for line in opened)


def _has_pairs(folder: Path) -> bool:
    """Whether an image has a label file beside it, in the folder or in one of a split."""
    places = [folder, *(folder / name for names in SPLIT_NAMES.values() for name in names)]
    for place in (place for place in places if place.is_dir()):
        if any((place / name).is_file() for name in CLASSES_FILES):
            return True
        if any(is_image(file) and file.with_suffix(".txt").is_file() for file in place.iterdir()):
            return True
    return any(is_image(f) and f.with_suffix(".txt").is_file() for f in files_below(folder / "obj_train_data"))
