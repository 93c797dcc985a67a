"""Where boxes and anchor shapes come from on the command line: `--data` and `--config` as for `fit`, and `--shapes`."""

from __future__ import annotations

import argparse
import csv
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from anchor_lightning.anchors.initialization import NAMED_GRID_UNITS, NAMED_LEVELS, initial_shapes
from anchor_lightning.commands.anchor_tables import size_text
from anchor_lightning.commands.configs import CONFIG_FLAGS, read_yaml
from anchor_lightning.data import SETS, AnnotatedSet, module_name
from anchor_lightning.data.formats.common import exists
from anchor_lightning.data.formats.detect import detect_data
from anchor_lightning.data.formats.places import expand
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import FILES, READERS, RESIZED, AnchorSet, Resized, read_shapes_file
from anchor_lightning.training.checkpoint_files import CELLS, PROJECT_KEY, anchor_wh_of, read_checkpoint

DATA_HELP: Final = (
    "Folder or file of a data set, its kind is found out: VOC style, COCO .json, YOLO data.yaml or images/ and "
    "labels/; or a class (VOCDataModule, COCODataModule, YOLODataModule, ...) with its options as --data.root FOLDER, "
    "--data.train_split NAME, ..."
)
KNOWN: Final = (
    f"a checkpoint (.ckpt), a run folder (the last step of its anchors.csv), {FILES}, pairs in pixels as in "
    f"'[[10,13],[33,23]]', or one of {', '.join(NAMED_GRID_UNITS)}"
)


def add_data_options(parser: ArgumentParser, required: bool = True) -> None:
    """Adds `--data`, and for its help `--config`, which `data_args` takes out."""
    parser.add_argument("--data", type=AnnotatedSet, required=required, help=DATA_HELP)
    parser.add_argument("--config", type=str, help="Configuration, shipped or own, whose data part is used.")


def data_args(args: list[str]) -> list[str]:
    """Arguments with `--config FILE` and `--data PATH` as `--data=JSON`, which jsonargparse lays over each other.

    Of a configuration only the part `data` counts. A `--data` counts more than a configuration. In the place of a data
    module of this project stands the set that it loads, which needs no Lightning.

    Raises:
        UserError: A configuration has no `data`, or a path is missing or no data set.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*CONFIG_FLAGS, action="append", default=[], dest="configs")
    parser.add_argument("--data")
    parser.add_argument("--data.help", dest="help_of", nargs="?", const="")  # without a class: of all sets' options
    given, rest = parser.parse_known_args(args)
    parts = [_json_of_set(part) for file in given.configs if (part := _data_part(Path(file)))]
    if given.data is not None:
        parts.append(_set_of(_data(module_name(given.data))))
    elif given.configs and not any("class_path" in part for part in parts):
        raise UserError("--config: no configuration among those given names a data set (data.class_path); add --data")
    if given.help_of is not None:
        rest.append(f"--data.help={_set_of(given.help_of)}" if given.help_of else "--data.help")
    return [*(f"--data={part}" for part in parts), *rest]


def data_words(args: list[str]) -> list[str]:
    """The arguments that name the data set or set its options, which `fit` takes, too, and the configurations."""
    words: list[str] = []
    is_value = False  # whether the next argument belongs to the option before it
    for arg in args:
        is_option = arg.startswith("-")
        name = arg.partition("=")[0]
        is_ours = name in ("--data", *CONFIG_FLAGS) or name.startswith("--data.")
        if is_ours if is_option else is_value:
            words.append(arg)
        is_value = is_option and is_ours and "=" not in arg
    return words


def data_paths(args: list[str]) -> list[str]:
    """Arguments with every `--data PATH` as the data module that reads it, `--data=JSON`; classes stay as they are.

    Raises:
        UserError: There is no such path or class, or the path is no data set.
    """
    result: list[str] = []
    for arg in args:
        if result and result[-1] == "--data":
            result[-1] = f"--data={_data(arg)}"
        elif arg.startswith("--data="):
            result.append(f"--data={_data(arg.removeprefix('--data='))}")
        else:
            result.append(arg)
    return result


def _data(value: str) -> str:
    path = expand(value)
    if exists(path):
        class_path, arguments = detect_data(path)
        return json.dumps({"class_path": class_path, "init_args": arguments})
    imported = "." in value and not set(value) & set("/\\") and path.suffix not in (".json", ".yaml", ".yml", ".data")
    if not (imported or value in SETS or value.lstrip().startswith("{")):
        text = f"there is no folder or file {path}"
        if not (path.suffix or set(value) & set("/\\")):
            text += f", nor a data module of that name; known are {', '.join(SETS)}"
        raise UserError(text, "data")
    return value


def _set_of(value: str) -> str:
    """A class, or JSON with one, as given; of a data module of this project the set that it loads."""
    if value.lstrip().startswith("{"):
        with suppress(ValueError):  # the parser says what is wrong with it
            return _json_of_set(json.loads(value))
    name = value.removeprefix("anchor_lightning.data.")
    return SETS[name].__name__ if name in SETS else value


def _json_of_set(part: dict[str, Any]) -> str:
    class_path = part.get("class_path")
    return json.dumps(part | {"class_path": _set_of(class_path)} if isinstance(class_path, str) else part)


def _data_part(file: Path) -> dict[str, Any]:
    content = read_yaml(file)
    data = content.get("data") if isinstance(content, dict) else None
    return data if isinstance(data, dict) else {}


def read_shapes(given: str) -> AnchorSet:
    """The shapes that one value of `--shapes` stands for.

    Args:
        given: See `KNOWN`.

    Raises:
        UserError: It is none of these, or cannot be read; says why.
    """
    try:
        return _read(given, Path(given))
    except (OSError, ValueError) as error:
        reason = error.message if isinstance(error, UserError) else str(error)
        raise UserError(reason if given in reason else f"{given}: {reason}", "shapes") from None


def frame_remarks(
    given: str | None, anchors: AnchorSet, image_size: tuple[int, int] | None, resize: Resized | None
) -> list[str]:
    """Where the frame of a set is another than this one or is not known, a sentence each.

    Args:
        given: The value of `--shapes` that named the set, if it has one.
        anchors: The set.
        image_size: Height and width of the network input here, if known.
        resize: How images get to that, if known.
    """
    remarks = []
    made, here = anchors.image_size, image_size and size_text(image_size)
    if here and made is None and given is not None and Path(given).exists():
        remarks.append(f"for which network input these shapes are is not stated; they are taken as pixels of {here}.")
    elif here and made is not None and made != image_size:
        remarks.append(
            f"these shapes are for another network input, {size_text(made)}, and are taken as they are at {here}."
        )
    if anchors.resize is not None and resize is not None and anchors.resize != resize:
        remarks.append(f"these shapes are for images {RESIZED[anchors.resize]}, not {RESIZED[resize]} as here.")
    return remarks


def _read(given: str, path: Path) -> AnchorSet:
    if given in NAMED_GRID_UNITS and (named := initial_shapes(given)) is not None:
        return AnchorSet(named, NAMED_LEVELS.get(given, ()), given)
    if given.lstrip().startswith("["):
        return AnchorSet(_pairs(given), source="the command line")
    if path.is_dir():
        return _from_run(path)
    if not path.is_file():
        raise UserError(f"there is no {given}; give {KNOWN}")
    if path.suffix.lower() in READERS:
        return read_shapes_file(path)
    try:
        content = read_checkpoint(path, frozen=True)
    except UserError as error:
        raise UserError(f"{error.message}; give {KNOWN}") from None
    return _from_checkpoint(path, content)


def _from_checkpoint(path: Path, content: dict[str, Any]) -> AnchorSet:
    details = content.get(PROJECT_KEY, {})
    # Checkpoints of before know neither levels nor how images were resized.
    frame = details.get("anchors", {})
    size = frame.get("image_size") or details.get("image_size")
    image_size, source = size and (size[0], size[-1]), f"{path}, step {content.get('global_step', '?')}"
    if CELLS in content:
        cells = content[CELLS]
        return AnchorSet(_wh_of_cells(cells, image_size), tuple(map(len, cells)), source, image_size)
    per_level = tuple(frame.get("per_level", ()))
    return AnchorSet(anchor_wh_of(content), per_level, source, image_size, resize=frame.get("resize"))


def _wh_of_cells(cells: list[Tensor], image_size: tuple[int, int] | None) -> Tensor:
    """(A, 2) shapes in pixels, of what a frozen detector has on each level: corners (A, 4), or SSD's shares (A, 2)."""
    of_all = torch.cat(cells).float()
    if of_all.shape[1] == 4:
        return of_all[:, 2:] - of_all[:, :2]
    if image_size is None:
        raise UserError("its anchors are shares of an SSD's input, whose size it does not state; give the run folder")
    return of_all * torch.tensor([image_size[1], image_size[0]])


def _pairs(given: str) -> Tensor:
    try:
        wh = torch.tensor(json.loads(given), dtype=torch.float32)
    except (ValueError, TypeError):
        wh = torch.empty(0)
    if wh.ndim != 2 or wh.shape[1] != 2 or len(wh) == 0:
        raise UserError(f"{given} is no list of pairs in pixels, as '[[10, 13], [33, 23]]' is")
    return wh


def _from_run(folder: Path) -> AnchorSet:
    file = folder / "anchors.csv"
    try:
        lines = csv.DictReader(file.read_text().splitlines())
        rows = [(int(row["step"]), int(row["anchor"]), float(row["w"]), float(row["h"])) for row in lines]
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}); give the folder of a training (`test` and `validate` leave "
            "folders, too)"
        ) from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file} is not the anchors.csv of a run (step, anchor, w, h)") from None
    if not rows:
        raise UserError(f"{file} has no shapes yet")
    last = rows[-1][0]
    # A step may be written twice, by a run and by the one that goes on from it: the later row counts.
    shapes = {anchor: (w, h) for step, anchor, w, h in rows if step == last}
    anchors = AnchorSet(torch.tensor([shapes[a] for a in sorted(shapes)]), source=f"{folder}, step {last}")
    if not (stated := folder / "anchors.json").is_file():  # runs of before have none
        return anchors
    frame = read_shapes_file(stated)
    return replace(anchors, per_level=frame.per_level, image_size=frame.image_size, resize=frame.resize)
