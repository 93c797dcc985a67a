"""Anchor shapes as text for other tools; each text states its unit and order in its first lines."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor

from anchor_lightning.anchors.initialization import GRID_UNIT
from anchor_lightning.anchors.shapes import check_positive
from anchor_lightning.errors import UserError

Target = Literal["darknet", "ultralytics", "mmdet", "torchvision", "json"]
# By the number of levels: of YOLOv2, tiny YOLOv3, YOLOv3 to v5, YOLOv5-P6.
_STRIDES: Final = {1: (32,), 2: (16, 32), 3: (8, 16, 32), 4: (8, 16, 32, 64)}
_FORMAT: Final = "anchor_lightning anchors"

Resized = Literal["stretch", "letterbox", "native"]
RESIZED: Final[dict[Resized, str]] = {"stretch": "stretched", "letterbox": "letterboxed", "native": "at native scale"}
"""How images got to the size of the network input, in a word: `letterbox` keeps their aspect, `native` their pixels."""
_TOOLS_RESIZE: Final[dict[Target, tuple[Resized, str, str]]] = {
    "darknet": (
        "stretch",
        "stretches images (the original C code letterboxes them)",
        ", or set letter_box=1 in [net] and detect with -letter_box",
    ),
    "ultralytics": ("letterbox", "keeps the aspect of images", ""),
    "mmdet": ("letterbox", "keeps the aspect of images", ", or set keep_ratio=False in its pipelines"),
}
"""What a tool does with images, in a word and in words, and how to make it do the other."""
_TORCHVISION_LEVELS: Final = {  # number of feature maps -> the detectors that have so many
    5: "FasterRCNN or RetinaNet on the FPN of a ResNet",
    3: "FasterRCNN on the FPN of a MobileNetV3",
    1: "FasterRCNN on a backbone without FPN",
}
_NATIVE: Final = "these shapes were fitted to images at native scale, and suit only images that keep it."


@dataclass(frozen=True)
class AnchorSet:
    """Shapes with what is known of them.

    Args:
        wh: (A, 2) pixels of the network input.
        levels: Levels of the detector's head; the shapes are divided among them by area, equally many each.
        source: Where the shapes come from, in words.
        image_size: Height and width of the network input that they are meant for, if known.
        score: Measured values by their name.
        resize: How the images that they were fitted to got to that input, if known.

    Raises:
        UserError: A side is not positive, or the shapes cannot be divided equally.
    """

    wh: Tensor
    levels: int = 1
    source: str = ""
    image_size: tuple[int, int] | None = None
    score: dict[str, float] = field(default_factory=dict)
    resize: Resized | None = None

    def __post_init__(self) -> None:
        check_positive(self.wh)
        if self.levels < 1 or len(self.wh) % self.levels:
            raise UserError(
                f"{len(self.wh)} shapes do not divide equally among {self.levels} levels; the number of shapes counts "
                "all levels together, as in 9 shapes on 3 levels",
                argument="levels",
            )

    @property
    def by_level(self) -> list[list[list[float]]]:
        """[[w, h], …] of every level in pixels, smallest area and smallest stride first."""
        shapes = self.wh[self.wh.prod(1).argsort(stable=True)].tolist()
        size = len(shapes) // self.levels
        return [shapes[start : start + size] for start in range(0, len(shapes), size)]

    def remarks(self) -> list[str]:
        """Source and score in lines."""
        size = "" if self.image_size is None else f" of {self.image_size[1]} x {self.image_size[0]} (w x h)"
        score = ", ".join(f"{name} {value:.4f}" for name, value in self.score.items()) or "not measured"
        return [
            f"{len(self.wh)} anchors for a network input{size}, written by anchor_lightning",
            f"source: {' '.join((self.source or 'not stated').split())}",
            f"score: {score}",
        ]


def anchors_text(anchors: AnchorSet, to: Target, version: int | None = None) -> str:
    """The text for another tool.

    Args:
        anchors: The shapes.
        to: The tool.
        version: Of darknet's YOLO, 2 or 3 (and later); None for 2 with one level and 3 with several.

    Raises:
        UserError: The tool cannot express what is asked for.
    """
    if to == "darknet":
        return _darknet(anchors, version)
    if version is not None:
        raise UserError(f"it is for darknet (2 or 3); leave it out for {to}", argument="version")
    writers = {"ultralytics": _ultralytics, "mmdet": _mmdet, "torchvision": _torchvision, "json": _json}
    return writers[to](anchors)


def export_notes(anchors: AnchorSet, to: Target) -> list[str]:
    """Hints for the user of another tool on these shapes, a sentence each; the text's comments hold them, too."""
    if to == "torchvision":
        return [_torchvision_levels(anchors.levels), _torchvision_resize(anchors)]
    if to not in _TOOLS_RESIZE or anchors.resize in (None, _TOOLS_RESIZE[to][0]):
        return []
    theirs, does, otherwise = _TOOLS_RESIZE[to]
    if anchors.resize == "native":
        return [f"{to} {does}; {_NATIVE}"]
    fitted = RESIZED[anchors.resize]
    return [
        f"{to} {does}; these shapes were fitted to {fitted} ones. Unless all images have the aspect of the network "
        f"input, fit again with resize {theirs}{otherwise}."
    ]


def _torchvision_levels(levels: int) -> str:
    here = f"No detector of torchvision has {levels} feature maps"
    if levels in _TORCHVISION_LEVELS:
        here = f"A list for each feature map: {levels} of them suit {_TORCHVISION_LEVELS[levels]}"
    others = [f"levels {count} for {who}" for count, who in _TORCHVISION_LEVELS.items() if count != levels]
    return (
        f"{here}. Fit again with {', or '.join(others)}. SSD takes no shapes but those of its own DefaultBoxGenerator."
    )


def _torchvision_resize(anchors: AnchorSet) -> str:
    does = "torchvision's detectors resize images by themselves, aspect kept, the shorter side to 800 pixels"
    if anchors.resize == "native":
        return f"{does}; {_NATIVE}"
    height, width = anchors.image_size or ("HEIGHT", "WIDTH")
    short, long = sorted(anchors.image_size) if anchors.image_size else ("SHORTER", "LONGER")
    ways = {
        "stretch": f"fixed_size=({width}, {height}), which stretches images",
        "letterbox": f"min_size={short}, max_size={long}, which keeps their aspect",
    }
    asked = ways[anchors.resize] if anchors.resize else f"{ways['stretch']}, or {ways['letterbox']}"
    return f"{does}: for these shapes give the detector {asked}."


def _number(value: float) -> str:
    return f"{value:.9g}"  # every float32 comes back as it was


def _pairs(level: list[list[float]]) -> str:
    return f"[{', '.join(f'({_number(w)}, {_number(h)})' for w, h in level)}]"


def _head(anchors: AnchorSet, to: Target, *hints: str) -> str:
    notes = [line for note in export_notes(anchors, to) for line in textwrap.wrap(note, 110)]
    return "".join(f"# {line}\n" for line in (*anchors.remarks(), *hints, *notes))


def _darknet(anchors: AnchorSet, version: int | None) -> str:
    version = version or (2 if anchors.levels == 1 else 3)
    if version not in (2, 3):
        raise UserError(f"{version}; darknet's anchors are those of 2, or of 3 and later (3)", argument="version")
    if version == 2 and anchors.levels > 1:
        raise UserError(
            f"darknet's [region] layer (YOLOv2) has one level, not {anchors.levels}; give 3", argument="version"
        )
    levels = anchors.by_level
    scale = GRID_UNIT if version == 2 else 1
    text = ",  ".join(",".join(_number(side / scale) for side in shape) for level in levels for shape in level)
    if version == 2:
        unit = f"grid units: times {GRID_UNIT} they are pixels of the network input"
        return f"{_head(anchors, 'darknet', unit)}[region]\nanchors={text}\nnum={len(anchors.wh)}\n"
    hint = "pixels; put into each [yolo] layer; filters of the convolution before it = mask's numbers x (classes + 5)"
    sections, size = [], len(levels[0])
    for level in reversed(range(len(levels))):  # darknet's heads come largest stride first
        mask = ",".join(str(level * size + shape) for shape in range(size))
        sections.append(f"[yolo]\nmask={mask}\nanchors={text}\nnum={len(anchors.wh)}\n")
    return _head(anchors, "darknet", hint) + "\n".join(sections)


def _ultralytics(anchors: AnchorSet) -> str:
    strides = _strides(anchors, "ultralytics' YOLOv3 and YOLOv5 models", least=2)
    hint = "pixels; replace `anchors:` of a YOLOv5 or YOLOv3 model yaml and train with --noautoanchor"
    lines = [
        f"  - [{', '.join(','.join(map(_number, shape)) for shape in level)}]  # P{stride.bit_length() - 1}/{stride}\n"
        for level, stride in zip(anchors.by_level, strides, strict=True)
    ]
    return _head(anchors, "ultralytics", hint) + "anchors:\n" + "".join(lines)


def _mmdet(anchors: AnchorSet) -> str:
    strides = _strides(anchors, "mmdet's YOLO heads")
    hint = "pixels, largest stride first; put below `_base_` of a config with a YOLOV3Head, or into its model"
    rows = "".join(f"                {_pairs(level)},\n" for level in reversed(anchors.by_level))
    return (
        f"{_head(anchors, 'mmdet', hint)}"
        "model = dict(\n    bbox_head=dict(\n        anchor_generator=dict(\n            type='YOLOAnchorGenerator',\n"
        f"            base_sizes=[\n{rows}            ],\n            strides={list(reversed(strides))})))\n"
    )


def _torchvision(anchors: AnchorSet) -> str:
    notes = [
        "AnchorGenerator multiplies sizes with aspect ratios on every level and rounds the result to whole pixels, so",
        "it cannot be asked for a free list of widths and heights. Here `sizes` only states how many there are on each",
        f"of the {anchors.levels} levels; the shapes themselves are then put into `cell_anchors`, unrounded.",
    ]
    rows = "".join(f"    {_pairs(level)},\n" for level in anchors.by_level)
    return (
        f"{_head(anchors, 'torchvision', *notes)}"
        "import torch\nfrom torchvision.models.detection.anchor_utils import AnchorGenerator\n\n"
        "# Width and height in pixels of the network input, a list a level, smallest stride first.\n"
        f"anchor_wh = [\n{rows}]\n"
        "anchor_generator = AnchorGenerator(\n"
        "    sizes=tuple(tuple((w * h) ** 0.5 for w, h in level) for level in anchor_wh),\n"
        "    aspect_ratios=((1.0,),) * len(anchor_wh),\n)\n"
        "anchor_generator.cell_anchors = [\n"
        "    torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in level]) for level in anchor_wh\n]\n"
    )


def _json(anchors: AnchorSet) -> str:
    content: dict[str, Any] = {
        "format": _FORMAT,
        "unit": "pixels of the network input",
        "image_size": None if anchors.image_size is None else list(anchors.image_size),
        "resize": anchors.resize,
        "levels": anchors.levels,
        "anchors": [[float(_number(side)) for side in shape] for level in anchors.by_level for shape in level],
        "source": anchors.source,
        "score": anchors.score,
    }
    return json.dumps(content, indent=2) + "\n"


def _strides(anchors: AnchorSet, who: str, least: int = 1) -> tuple[int, ...]:
    if not least <= anchors.levels <= 4:
        raise UserError(
            f"{who} have {least} to 4 levels, not {anchors.levels}; give 3 and a number of shapes that "
            "divides by it, 9 in most models",
            argument="levels",
        )
    return _STRIDES[anchors.levels]


def read_json(text: str) -> AnchorSet:
    """The shapes in a text that `anchors_text` wrote as `json`.

    Raises:
        UserError: It is something else.
    """
    try:
        content = json.loads(text)
        size, resize = content["image_size"], content.get("resize")  # older files do not say how images were resized
        if content["format"] != _FORMAT or resize not in (None, *RESIZED):
            raise KeyError
        return AnchorSet(
            torch.tensor(content["anchors"], dtype=torch.float32).reshape(-1, 2),
            int(content["levels"]),
            str(content["source"]),
            None if size is None else (int(size[0]), int(size[1])),
            {str(name): float(value) for name, value in content["score"].items()},
            resize,
        )
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError):
        raise UserError("the text is no anchors.json of anchor_lightning (anchors fit writes one)") from None
