"""Options of a sub-command that name a data set as `fit` does (`--data`, `--data.…`, `--config`) or by its folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from anchor_lightning import data as data_modules
from anchor_lightning.commands.configs import CONFIG_FLAGS, read_yaml
from anchor_lightning.data import DetectionDataModule
from anchor_lightning.data.formats.detect import detect_data
from anchor_lightning.errors import UserError

DATA_HELP: Final = (
    "Folder or file of a data set, its kind is found out: VOC style, COCO .json, YOLO data.yaml or images/ and "
    "labels/; or a class (VOCDataModule, COCODataModule, YOLODataModule, ...) with its options as --data.root FOLDER, "
    "--data.train_split NAME, ..."
)


def add_data_options(parser: ArgumentParser) -> None:
    """Adds `--data`, and for its help `--config`, which `data_args` takes out."""
    parser.add_argument("--data", type=DetectionDataModule, required=True, help=DATA_HELP)
    parser.add_argument("--config", type=str, help="Configuration, shipped or own, whose data part is used.")


def data_args(args: list[str]) -> list[str]:
    """Arguments with `--config FILE` and `--data PATH` as `--data=JSON`, which jsonargparse lays over each other.

    Of a configuration only the part `data` counts. A `--data` counts more than a configuration.

    Raises:
        UserError: A configuration has no `data`, or a path is missing or no data set.
    """
    parser = argparse.ArgumentParser(prog="anchor_lightning anchors", add_help=False, allow_abbrev=False)
    parser.add_argument(*CONFIG_FLAGS, action="append", default=[], dest="configs")
    parser.add_argument("--data")
    given, rest = parser.parse_known_args(args)
    parts = [json.dumps(part) for file in given.configs if (part := _data_part(Path(file)))]
    if given.data is not None:
        parts.append(_data(given.data))
    elif given.configs and not any("class_path" in part for part in parts):
        raise UserError("--config: no configuration among those given names a data set (data.class_path); add --data")
    return [*(f"--data={part}" for part in parts), *rest]


def _data(value: str) -> str:
    path = Path(value)
    if path.exists():
        class_path, arguments = detect_data(path)
        return json.dumps({"class_path": class_path, "init_args": arguments})
    if "/" in value or path.suffix in (".json", ".yaml", ".yml"):
        raise UserError(f"--data: there is no {value}; give a folder, a COCO .json, a data.yaml, or a class")
    if value not in data_modules.__all__ and "." not in value and not value.lstrip().startswith("{"):
        known = ", ".join(name for name in data_modules.__all__ if name != DetectionDataModule.__name__)
        raise UserError(f"--data: {value} is neither a folder or file here nor a data module; known are {known}")
    return value


def _data_part(file: Path) -> dict[str, Any]:
    content = read_yaml(file)
    data = content.get("data") if isinstance(content, dict) else None
    return data if isinstance(data, dict) else {}


def box_shapes(data: DetectionDataModule, letterbox: bool = False) -> tuple[Tensor, Tensor]:
    """Shapes and classes of the boxes that training uses.

    Args:
        data: The data set.
        letterbox: Scale images to fit into `image_size` with their aspect kept, as YOLOv5 and mmdet do; else stretch
            them to it, as this project and darknet do.

    Returns:
        (N, 2) float32 widths and heights in pixels of the network input, and (N,) int64 class indices.
    """
    # No pixel is read, so an image that cannot be is no hindrance.
    data.skip_bad_images = True
    wh = data.train_box_shapes()
    used = [slice(None) if data.keep_difficult else ~record.ground_truth.ignore for record in data.records("train")]
    records = list(zip(data.records("train"), used, strict=True))
    labels = torch.cat([torch.from_numpy(record.ground_truth.labels[use]) for record, use in records])
    if letterbox and not data.native_crop:
        height, width = data.image_size
        scale = [
            torch.tensor([record.width / width, record.height / height])
            .mul(min(width / record.width, height / record.height))
            .expand(len(record.ground_truth.labels[use]), 2)
            for record, use in records
        ]
        wh = wh * torch.cat(scale)
    return wh, labels
