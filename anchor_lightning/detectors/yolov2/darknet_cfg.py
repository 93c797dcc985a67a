"""darknet's `.cfg` files: the anchors of any, and the text of a YOLOv2 for `export`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from anchor_lightning.anchors import AnchorOptions, anchor_options
from anchor_lightning.anchors.initialization import GRID_UNIT
from anchor_lightning.detectors.backbones import STAGES, scaled
from anchor_lightning.errors import UserError

Section = tuple[str, dict[str, str]]

_NOTES: Final = (
    "# anchors are in grid units: times 32 they are pixels of the network input",
    "# thresh is the lowest score that OpenCV keeps; C darknet reads it in training only, where it should be .6",
)


def read_anchors(path: Path | str) -> Tensor:
    """(A, 2) float32 anchors of a darknet configuration, in pixels of the network input.

    A `[region]` layer (YOLOv2) holds them in grid units; all `[yolo]` layers (YOLOv3 and later) share a list in pixels.

    Raises:
        UserError: The file is missing or has no anchors that can be read; names it and the line.
    """
    for kind, options in _sections(Path(path)):
        if kind in ("region", "yolo") and "anchors" in options:
            where = f"{path}: anchors of [{kind}]"
            try:
                numbers = [float(word) for word in options["anchors"].split(",") if word.strip()]
            except ValueError:
                raise UserError(f"{where} are no numbers: {options['anchors'][:80]}") from None
            if not numbers or len(numbers) % 2:
                raise UserError(f"{where} are {len(numbers)} numbers, not pairs of width and height")
            wh = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 2)
            if options.get("num", str(len(wh))) != str(len(wh)):
                raise UserError(f"{where} are {len(wh)} pairs, but num={options['num']}")
            if not ((wh > 0) & wh.isfinite()).all():
                raise UserError(f"{where} must be positive: {options['anchors'][:80]}")
            return (wh * (GRID_UNIT if kind == "region" else 1)).float()
    raise UserError(f"{path}: no [region] or [yolo] layer with anchors; give the .cfg of a YOLO")


def resolve_anchors(anchors: AnchorOptions | Mapping[str, Any] | None) -> AnchorOptions:
    """The options of the shapes, with the numbers of a darknet `.cfg` in the place of its path (for checkpoints).

    Raises:
        UserError: A key is unknown, or the file cannot be read.
    """
    options = anchor_options(dict(anchors)) if isinstance(anchors, Mapping) else anchors or AnchorOptions()
    if isinstance(options.init, str) and options.init.endswith(".cfg"):
        options = replace(options, init=read_anchors(options.init).tolist())
    init = options.init
    # No published YOLOv2 anchor is wider than 14 grid units: 13 are the whole image at 416 pixels.
    if not isinstance(init, str) and max((side for shape in init for side in shape), default=0) < 14:
        rank_zero_warn(
            "anchors.init: no side is above 14 pixels. If these are grid units of a YOLOv2 .cfg, multiply them by 32, "
            "or give the path of the .cfg."
        )
    return options


def cfg_text(
    wh: Tensor,
    num_classes: int,
    image_size: tuple[int, int],
    width: float = 1.0,
    score_threshold: float = 0.005,
    comment: str = "YOLOv2",
) -> str:
    """The configuration of a YOLOv2 with given anchors, for C darknet and OpenCV.

    Args:
        wh: (A, 2) pixels of the network input; written in grid units.
        num_classes: C.
        image_size: Height and width of the network input in pixels.
        width: Channel multiplier.
        score_threshold: Scores up to this are dropped by OpenCV.
        comment: First line.
    """
    height_px, width_px = image_size
    # %.9g: every float32 comes back as it was.
    anchors = ", ".join(f"{side:.9g}" for side in (wh.double() / GRID_UNIT).flatten().tolist())
    net: dict[str, object] = {"batch": 1, "subdivisions": 1, "width": width_px, "height": height_px, "channels": 3}
    net |= {"momentum": 0.9, "decay": 0.0005, "angle": 0, "saturation": 1.5, "exposure": 1.5, "hue": 0.1}
    net |= {"learning_rate": 0.001, "burn_in": 1000, "max_batches": 80200, "policy": "steps"}
    net |= {"steps": "40000,60000", "scales": ".1,.1"}
    region: dict[str, object] = {"anchors": anchors, "bias_match": 1, "classes": num_classes, "coords": 4}
    region |= {"num": len(wh), "softmax": 1, "jitter": 0.3, "rescore": 1}
    region |= {"object_scale": 5, "noobject_scale": 1, "class_scale": 1, "coord_scale": 1}
    region |= {"absolute": 1, "thresh": f"{score_threshold:g}", "random": 0}
    sections: list[tuple[str, dict[str, object]]] = [("net", net)]
    for index, rows in enumerate(STAGES):
        if index:
            sections.append(("maxpool", {"size": 2, "stride": 2}))
        sections += [_convolution(scaled(filters, width), size) for filters, size in rows]
    full = scaled(1024, width)
    # From here the last layer at stride 16 is nine layers back.
    sections += [_convolution(full, 3), _convolution(full, 3), ("route", {"layers": -9})]
    sections += [_convolution(scaled(64, width), 1), ("reorg", {"stride": 2}), ("route", {"layers": "-1,-4"})]
    sections.append(_convolution(full, 3))
    last = {"size": 1, "stride": 1, "pad": 1, "filters": len(wh) * (5 + num_classes), "activation": "linear"}
    sections += [("convolutional", last), ("region", region)]
    lines = [f"# {comment}", *_NOTES, ""]
    for kind, options in sections:
        lines += [f"[{kind}]", *(f"{name}={value}" for name, value in options.items()), ""]
    return "\n".join(lines)


def read_plain_file(path: Path, what: str, num_bytes: int = -1) -> bytes:
    """The bytes of a file, or the first of them.

    Raises:
        UserError: It cannot be read, or is a named pipe or a folder; names it and `what` to give.
    """
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
            raise OSError(0, "it is no plain file")
        with path.open("rb") as file:
            return file.read(num_bytes)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give the path of a {what}.") from None


def _convolution(filters: int, size: int) -> tuple[str, dict[str, object]]:
    options = {"batch_normalize": 1, "filters": filters, "size": size, "stride": 1, "pad": 1, "activation": "leaky"}
    return "convolutional", options


def _sections(path: Path) -> list[Section]:
    """Every `[section]` with its `name=value` lines; comments and what is neither are left out, as by the C code."""
    sections: list[Section] = []
    for line in read_plain_file(path, "darknet .cfg").decode(errors="replace").splitlines():
        line = "".join(line.split())  # the C code strips all blanks
        if line.startswith("["):
            sections.append((line.strip("[]"), {}))
        elif sections and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            sections[-1][1][name] = value
    return sections
