"""The anchors of darknet's `.cfg` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from anchor_lightning.anchors.initialization import GRID_UNIT
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats.anchor_set import AnchorSet, Resized, stack_levels, stated_frame
from anchor_lightning.fitting.formats.darknet_strides import NETS, layer_strides
from anchor_lightning.fitting.formats.files import read_plain_file

LAYERS: Final = ("region", "yolo", "Gaussian_yolo")
_LETTER_BOX: Final[dict[str | None, Resized]] = {"1": "letterbox", "0": "stretch"}
Options = dict[str, str]


def read_cfg(path: Path) -> AnchorSet:
    """The anchors of a darknet configuration, with the levels of its masks and the size of its `[net]`.

    A `[region]` layer (YOLOv2) holds them in grid units; `[yolo]` and `[Gaussian_yolo]` layers have a list in pixels
    each, of which the layer uses those that its mask names. Levels are sorted by their stride; where the file does not
    hold the layers before, by the masks of a common list, in which the shapes of the smallest stride come first. How
    images are resized is known where `[net]` states `letter_box`: AlexeyAB's darknet stretches them without, the
    original letterboxes.

    Raises:
        UserError: The file is missing or has no anchors that can be read; names it and the layer.
    """
    text = read_plain_file(path, "darknet .cfg").decode(errors="replace")
    sections = _sections(text)
    layers = [(kind, options) for kind, options in sections if kind in LAYERS]
    if not any("anchors" in options for _, options in layers):
        raise UserError(f"{path}: no [region] or [yolo] layer with anchors; give the .cfg of a YOLO")
    lists = [_list(f"{path}: anchors of [{kind}]", kind, options) for kind, options in layers]
    masks = [
        _mask(f"{path}: mask of [{kind}]", options, len(wh)) for (kind, options), wh in zip(layers, lists, strict=True)
    ]
    levels = [part[mask].tolist() for part, mask in zip(lists, masks, strict=True)]
    wh, per_level = stack_levels(levels, _order(sections, lists, masks))
    net = next((options for kind, options in sections if kind in NETS), {})
    size, resize = stated_frame(text)
    return AnchorSet(
        wh,
        per_level,
        f"{path}{_unused(lists, masks)}",
        _size(net) or size,
        resize=_LETTER_BOX.get(net.get("letter_box"), resize),
    )


def _order(sections: list[tuple[str, Options]], lists: list[Tensor], masks: list[list[int]]) -> list[float] | None:
    """What rises with the strides of the layers with anchors; None if nothing tells."""
    layers = [kind for kind, _ in sections if kind not in NETS]
    if (strides := layer_strides(sections)) is not None:
        of_levels = [stride for stride, kind in zip(strides, layers, strict=True) if kind in LAYERS]
        if len(set(of_levels)) == len(of_levels):
            return of_levels
    shared = all(torch.equal(wh, lists[0]) for wh in lists)
    return [float(min(mask)) for mask in masks] if shared else None


def _list(where: str, kind: str, options: Options) -> Tensor:
    """(A, 2) float64 pairs of a layer, in pixels."""
    given = options.get("anchors", "")
    try:
        numbers = [float(word) for word in given.split(",") if word]
    except ValueError:
        raise UserError(f"{where} are no numbers: {given[:80]}") from None
    if not numbers or len(numbers) % 2:
        raise UserError(f"{where} are {len(numbers)} numbers, not pairs of width and height")
    wh = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 2)
    if (num := options.get("num", str(len(wh)))) != str(len(wh)):
        raise UserError(
            f"{where} are {len(wh)} pairs, but num={num}: darknet takes num pairs, whatever the list holds; make both "
            "the same"
        )
    pixels = wh * (GRID_UNIT if kind == "region" else 1)
    if not ((pixels.float() > 0) & pixels.float().isfinite()).all():
        raise UserError(f"{where} must be positive: {given[:80]}")
    return pixels


def _mask(where: str, options: Options, num: int) -> list[int]:
    """The places in its list of the pairs that a layer uses: all without a mask."""
    if "mask" not in options:
        return list(range(num))
    words = [word for word in options["mask"].split(",") if word]
    if not words or not all(word.isdecimal() and len(word) < 5 and int(word) < num for word in words):
        raise UserError(f"{where} is {options['mask'][:80]}, which must be places from 0 to {num - 1} of its anchors")
    return [int(word) for word in words]


def _unused(lists: list[Tensor], masks: list[list[int]]) -> str:
    """A remark on shapes of a list that all layers share and none uses."""
    if not all(torch.equal(wh, lists[0]) for wh in lists):
        return ""
    used = {place for mask in masks for place in mask}
    unused = [f"{w:g} x {h:g}" for place, (w, h) in enumerate(lists[0].tolist()) if place not in used]
    return f" (without {', '.join(unused)}, in no mask)" if unused else ""


def _size(net: Mapping[str, str]) -> tuple[int, int] | None:
    height, width = net.get("height", ""), net.get("width", "")
    if all(side.isdecimal() and 0 < len(side) <= 5 and int(side) for side in (height, width)):
        return int(height), int(width)
    return None


def _sections(text: str) -> list[tuple[str, Options]]:
    """Every `[section]` with its `name=value` lines, read as by the C code.

    Blanks do not count, comments and what is neither are left out, and the first of two lines of a name counts.
    """
    sections: list[tuple[str, Options]] = []
    for line in text.splitlines():
        line = "".join(line.split())
        if line.startswith("["):
            sections.append((line.strip("[]"), {}))
        elif sections and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            sections[-1][1].setdefault(name, value)
    return sections
