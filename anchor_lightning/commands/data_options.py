"""Options of a sub-command that names a data set as `fit` does (`--data`, `--data.…`, `--config`) or by its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

from anchor_lightning import data as data_modules
from anchor_lightning.commands.configs import CONFIG_FLAGS
from anchor_lightning.data import DetectionDataModule
from anchor_lightning.data.formats.detect import detect_data

MANY: Final = "--shapes"
"""The option that takes several words."""
DATA_HELP: Final = (
    "Folder or file of a data set, its kind is found out: VOC style, COCO .json, YOLO data.yaml or images/ and "
    "labels/; or a class (VOCDataModule, COCODataModule, YOLODataModule, ...) with its options as --data.root FOLDER, "
    "--data.train_split NAME, ..."
)


def run_group(name: str, group: Mapping[str, Callable[..., Any]], words: list[str]) -> Any:
    """Runs one of a command's sub-commands.

    Args:
        name: The command.
        group: Its sub-commands: functions whose arguments are their options; an argument `data` takes a data module.
        words: The command line behind the name.

    Raises:
        SystemExit: There is no such sub-command; lists those that there are. Also after `--help`.
    """
    lines = [f"  {sub:<8}{(function.__doc__ or '').splitlines()[0]}" for sub, function in group.items()]
    usage = "\n".join([f"usage: anchor_lightning {name} {{{','.join(group)}}} [options]", "", *lines, ""])
    if words[:1] in (["--help"], ["-h"]):
        print(usage + "\nEach has a --help of its own.")
        raise SystemExit(0)
    if not words or words[0] not in group:
        problem = f"{words[0]} is no sub-command" if words else "give a sub-command"
        raise SystemExit(f"anchor_lightning {name}: {problem}\n\n{usage}")
    function = group[words[0]]
    summary = (function.__doc__ or "").splitlines()[0]
    parser = ArgumentParser(prog=f"anchor_lightning {name} {words[0]}", description=summary)
    options = join_many(words[1:])
    if "data" in signature(function).parameters:
        parser.add_argument("--data", type=DetectionDataModule, required=True, help=DATA_HELP)
        parser.add_argument("--config", type=str, help="Configuration, shipped or own, whose data part is used.")
        options = data_words(options)
    parser.add_function_arguments(function, as_group=False, skip={"data"})
    arguments = parser.instantiate_classes(parser.parse_args(options)).as_dict()
    arguments.pop("config", None)
    return function(**arguments)


def join_many(words: list[str]) -> list[str]:
    """The words with all of `--shapes A B --shapes C` in one, as the list that the parser wants."""
    result: list[str] = []
    found: list[str] = []
    taking = False
    for word in words:
        flag, separator, value = word.partition("=")
        if flag == MANY:
            found += [value] if separator else []
            taking = not separator
        elif taking and not word.startswith("--"):
            found.append(word)
        else:
            taking = False
            result.append(word)
    return [*result, f"{MANY}={json.dumps(found)}"] if found else result


def data_words(words: list[str]) -> list[str]:
    """The words with `--config FILE` and `--data PATH` said in the parser's own terms.

    Of a configuration only the part `data` counts; several are laid over each other in their order.

    Raises:
        ValueError: A configuration has no `data`, or a path is missing or no data set.
    """
    result: list[str] = []
    config: dict[str, Any] = {}
    has_config = False
    pending = ""
    for word in words:
        flag, separator, value = word.partition("=")
        if pending:
            flag, value, pending = pending, word, ""
        elif flag in ("--data", *CONFIG_FLAGS) and not separator:
            pending = flag
            continue
        if flag in CONFIG_FLAGS:
            config, has_config = _merged(config, _data_part(Path(value))), True
        elif flag == "--data":
            result += _data(value)
        else:
            result.append(word)
    if pending:
        result.append(pending)
    if has_config and "class_path" not in config and not any(word.startswith("--data=") for word in result):
        raise ValueError("--config: no configuration among those given names a data set (data.class_path); add --data")
    return [f"--data={json.dumps(config)}", *result] if config else result


def _data(value: str) -> list[str]:
    path = Path(value)
    if path.exists():
        class_path, arguments = detect_data(path)
        return [f"--data={json.dumps({'class_path': class_path, 'init_args': arguments})}"]
    if "/" in value or path.suffix in (".json", ".yaml", ".yml"):
        raise ValueError(f"--data: there is no {value}; give a folder, a COCO .json, a data.yaml, or a class")
    if value not in data_modules.__all__ and "." not in value and not value.lstrip().startswith("{"):
        known = ", ".join(name for name in data_modules.__all__ if name != DetectionDataModule.__name__)
        raise ValueError(f"--data: {value} is neither a folder or file here nor a data module; known are {known}")
    return [f"--data={value}"]


def _data_part(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--config: {file} cannot be read ({' '.join(str(error).split())})") from None
    data = content.get("data") if isinstance(content, dict) else None
    return data if isinstance(data, dict) else {}


def _merged(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    arguments = {**lower.get("init_args", {}), **upper.get("init_args", {})}
    if upper.get("class_path", lower.get("class_path")) != lower.get("class_path"):
        arguments = dict(upper.get("init_args", {}))
    return {**lower, **upper, **({"init_args": arguments} if arguments else {})}


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
