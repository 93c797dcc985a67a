"""Anchor shapes as text for other tools; each text states its unit and order in its first lines."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from anchor_lightning.anchors.initialization import GRID_UNIT
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats.anchor_set import AnchorSet
from anchor_lightning.fitting.formats.notes import export_notes
from anchor_lightning.fitting.formats.readers import FORMAT
from anchor_lightning.fitting.formats.targets import GRID_TARGETS, STRIDES, Target


def anchors_text(anchors: AnchorSet, to: Target, version: int | None = None) -> str:
    """The text for another tool that takes free shapes; `grid_text` is for `GRID_TARGETS`.

    Args:
        anchors: The shapes.
        to: The tool.
        version: Of darknet's YOLO, 2 or 3 (and later); None for 2 with one level and 3 with several.

    Raises:
        UserError: The tool cannot express what is asked for.
    """
    if to in GRID_TARGETS:
        raise UserError(f"{to} knows sizes, scales and ratios only; fit them to the boxes", argument="to")
    if to == "darknet":
        return _darknet(anchors, version)
    if version is not None:
        raise UserError(f"it is for darknet (2 or 3); leave it out for {to}", argument="version")
    writers = {"ultralytics": _ultralytics, "mmdet": _mmdet, "torchvision": _torchvision, "json": _json}
    return writers[to](anchors)


def _number(value: float, digits: int = 5) -> str:
    return f"{value:.{digits}g}"  # json has all of them


def _pairs(level: list[list[float]]) -> str:
    return f"[{', '.join(f'({_number(w)}, {_number(h)})' for w, h in level)}]"


def head_of(anchors: AnchorSet, to: Target, *hints: str) -> str:
    """Comments with frame, source and score, then the given lines, then the notes on the tool."""
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
    digits = 6 if version == 2 else 5  # as many as the published anchors have
    rows = [[_number(side / scale, digits) for side in shape] for level in levels for shape in level]
    text = ",  ".join(map(",".join, rows))
    if version == 2:
        unit = f"grid units: times {GRID_UNIT} they are pixels of the network input"
        return f"{head_of(anchors, 'darknet', unit)}[region]\nanchors={text}\nnum={len(anchors.wh)}\n"
    hint = "pixels; put into each [yolo] layer; filters of the convolution before it = mask's numbers x (classes + 5)"
    sections, first = [], 0
    for level in levels:
        mask = ",".join(str(first + shape) for shape in range(len(level)))
        sections.append(f"[yolo]\nmask={mask}\nanchors={text}\nnum={len(anchors.wh)}\n")
        first += len(level)
    return head_of(anchors, "darknet", hint) + "\n".join(reversed(sections))  # heads come largest stride first


def _ultralytics(anchors: AnchorSet) -> str:
    strides = _strides(anchors, "ultralytics' YOLOv3 and YOLOv5 models", least=2)
    hint = "pixels; replace `anchors:` of a YOLOv5 or YOLOv3 model yaml and train with --noautoanchor"
    lines = [
        f"  - [{', '.join(','.join(map(_number, shape)) for shape in level)}]  # P{stride.bit_length() - 1}/{stride}\n"
        for level, stride in zip(anchors.by_level, strides, strict=True)
    ]
    return head_of(anchors, "ultralytics", hint) + "anchors:\n" + "".join(lines)


def _mmdet(anchors: AnchorSet) -> str:
    strides = _strides(anchors, "mmdet's YOLO heads")
    hint = "pixels, largest stride first; put below `_base_` of a config with a YOLOV3Head, or into its model"
    rows = "".join(f"                {_pairs(level)},\n" for level in reversed(anchors.by_level))
    return (
        f"{head_of(anchors, 'mmdet', hint)}"
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
        f"{head_of(anchors, 'torchvision', *notes)}"
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
        "format": FORMAT,
        "unit": "pixels of the network input",
        "image_size": None if anchors.image_size is None else list(anchors.image_size),
        "resize": anchors.resize,
        "levels": anchors.levels,
        "per_level": list(anchors.per_level),
        # .9g: every float32 comes back as it was.
        "anchors": [[float(f"{side:.9g}") for side in shape] for level in anchors.by_level for shape in level],
        "source": anchors.source,
        "score": anchors.score,
    }
    return json.dumps(content, indent=2) + "\n"


def _strides(anchors: AnchorSet, who: str, least: int = 1) -> tuple[int, ...]:
    check_equal_levels(anchors, who)
    if not least <= anchors.levels <= max(STRIDES):
        num = len(anchors.wh)
        fit = "fit again, `anchors fit --num 9 --levels 3`, say"
        advice = f"give --levels 3, or {fit}" if num % 3 == 0 else fit
        raise UserError(
            f"{who} have {least} to 4 levels, and these {num} shapes are for {anchors.levels}; {advice}", "to"
        )
    return STRIDES[anchors.levels]


def check_equal_levels(anchors: AnchorSet, who: str) -> None:
    """Raises a `UserError` for a set with other numbers of shapes on some levels, which `who` cannot have."""
    if len(set(anchors.per_level)) > 1:
        raise UserError(
            f"{who} need as many shapes on every level, not {list(anchors.per_level)}; fit a number of shapes that "
            "divides among the levels",
            argument="levels",
        )
