"""The anchors of mmdet's configurations (Python files), which are read and never run.

Shape letters: L levels, S scales, R ratios.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from anchor_lightning.anchors.initialization import MAX_SHAPES
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats.anchor_set import AnchorSet, Resized, stack_levels, stated_frame
from anchor_lightning.fitting.formats.files import read_plain_file
from anchor_lightning.fitting.formats.python_values import Computed, python_values

GENERATORS: Final = ("YOLOAnchorGenerator", "AnchorGenerator", "SSDAnchorGenerator", "LegacyAnchorGenerator")
_MAX_BASES: Final = 8
_INSERTED: Final = {  # (input size, smallest share in percent) -> shares of the first level, of mmdet's SSD
    (300, 15): (7, 15),
    (300, 20): (10, 20),
    (512, 10): (4, 10),
    (512, 15): (7, 15),
}
Levels = list[list[list[float]]]


def read_mmdet(path: Path) -> AnchorSet:
    """The anchors of an mmdet configuration with a YOLOAnchorGenerator, AnchorGenerator or SSDAnchorGenerator.

    A `_base_` is followed where it is there. The size is that of the test pipeline's `Resize`, whose `keep_ratio` says
    whether images are stretched or letterboxed.

    Raises:
        UserError: The file cannot be read, has no generator or several, or computes what it needs; names it.
    """
    text = read_plain_file(path, "config of mmdet").decode(errors="replace")
    missing: list[str] = []
    content = _content(path, text, missing, 0)
    absent = f" (its _base_ {', '.join(missing)} is not here)" if missing else ""
    generators: list[dict[Any, Any]] = []
    for found in _dicts(content.get("model", content)):
        if found.get("type") in GENERATORS and found not in generators:
            generators.append(found)
    if len(generators) != 1:
        count = "several different" if generators else f"no {', '.join(GENERATORS[:3])}"
        raise UserError(f"{path}: there is {count} in it{absent}; give a config with one of them")
    generator = generators[0]
    if computed := next(_computed([generator.get(name) for name in _ARGUMENTS]), None):
        raise UserError(
            f"{path}, line {computed.line}: a part of {generator['type']} is computed there, and configs are not run; "
            "write the numbers"
        )
    try:
        wh, per_level = stack_levels(_levels(generator), _strides(generator) if "strides" in generator else None)
        size, resize = _frame(content, generator)
        stated, stated_resize = stated_frame(text)
        return AnchorSet(wh, per_level, str(path), size or stated, resize=resize or stated_resize)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError, RuntimeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: {generator['type']} cannot be read{absent}: {reason}") from None


_ARGUMENTS: Final = (
    *("strides", "ratios", "scales", "base_sizes", "octave_base_scale", "scales_per_octave", "scale_major"),
    *("min_sizes", "max_sizes", "basesize_ratio_range", "input_size"),
)


def _content(path: Path, text: str, missing: list[str], depth: int) -> dict[str, Any]:
    """The values of a configuration laid over those of its bases, as mmdet's own merging does."""
    try:
        found = python_values(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{path} is no Python that can be read") from None
    if "model" in found.changed:
        raise UserError(
            f"{path}, line {found.changed['model']}: `model` is changed there, and configs are not run; write its "
            "anchor generator into the assignment"
        )
    given = found.values.pop("_base_", [])
    content: dict[str, Any] = {}
    for name in given if isinstance(given, list) else [given]:
        base = path.parent / name if isinstance(name, str) else None
        if base is None or depth == _MAX_BASES or not base.is_file():
            missing.append(str(name))
            continue
        inherited = read_plain_file(base, "config of mmdet").decode(errors="replace")
        content = _merged(content, _content(base, inherited, missing, depth + 1))
    return _merged(content, found.values)


def _merged(base: dict[Any, Any], over: dict[Any, Any]) -> dict[Any, Any]:
    result = dict(base)
    for name, value in over.items():
        before = result.get(name)
        if isinstance(value, dict) and isinstance(before, dict) and not value.get("_delete_"):
            value = _merged(before, value)
        result[name] = value
    return result


def _dicts(value: Any) -> Iterator[dict[Any, Any]]:
    if isinstance(value, dict):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _dicts(part)


def _computed(value: Any) -> Iterator[Computed]:
    if isinstance(value, Computed):
        yield value
    for part in value if isinstance(value, list) else ():
        yield from _computed(part)


def _strides(generator: dict[str, Any]) -> list[float]:
    """Of every level; `base_sizes` and `strides` are in one order."""
    return [min(stride) if isinstance(stride, list) else stride for stride in generator["strides"]]


def _levels(generator: dict[str, Any]) -> Levels:
    """[[w, h], …] of every level in pixels."""
    if generator["type"] == "YOLOAnchorGenerator":
        return [[[float(w), float(h)] for w, h in level] for level in generator["base_sizes"]]
    if generator["type"] == "SSDAnchorGenerator":
        return _ssd_levels(generator)
    strides = _strides(generator)
    sizes = generator.get("base_sizes") or strides
    if (scales := generator.get("scales")) is None:
        octave, num = generator["octave_base_scale"], generator["scales_per_octave"]
        if num > MAX_SHAPES:
            raise ValueError(f"scales_per_octave is {num}")
        scales = [octave * 2 ** (step / num) for step in range(num)]
    scale_major = bool(generator.get("scale_major", True))
    return [_grid(size, scales, generator["ratios"], scale_major) for size in sizes]


def _grid(size: float, scales: list[float], ratios: list[float], scale_major: bool) -> list[list[float]]:
    """(R * S, 2) shapes of one level, or (S * R, 2) unless `scale_major`, as mmdet orders them; ratios are h / w."""
    h_ratio = np.sqrt(np.array(ratios, dtype=float))
    sides = np.array(scales, dtype=float) * size
    w, h = (np.outer(1 / h_ratio, sides), np.outer(h_ratio, sides))
    if not scale_major:
        w, h = w.T, h.T
    grid: list[list[float]] = np.column_stack([w.ravel(), h.ravel()]).tolist()
    return grid


def _ssd_levels(generator: dict[str, Any]) -> Levels:
    """The default boxes of SSD (Liu et al. 2016): of each level the ratios at the first scale, and a larger square."""
    ratios, small, large = generator["ratios"], generator.get("min_sizes"), generator.get("max_sizes")
    if small is None or large is None:
        small, large = _ssd_sizes(
            generator.get("input_size", 300), generator.get("basesize_ratio_range", [0.15, 0.9]), len(ratios)
        )
    levels = []
    for size, next_size, of_level in zip(small, large, ratios, strict=True):
        all_ratios = [1.0, *(ratio for r in of_level for ratio in (1 / r, r))]
        scales = [1.0, (next_size / size) ** 0.5]
        grid = _grid(size, scales, all_ratios, bool(generator.get("scale_major", True)))
        levels.append([grid[0], grid[len(all_ratios)], *grid[1 : len(all_ratios)]])
    return levels


def _ssd_sizes(input_size: int, shares: list[float], num_levels: int) -> tuple[list[int], list[int]]:
    low, high = (int(share * 100) for share in shares)
    step = (high - low) // (num_levels - 2)
    percents = range(low, high + 1, step)
    small = [input_size * percent // 100 for percent in percents]
    large = [input_size * (percent + step) // 100 for percent in percents]
    if (input_size, low) not in _INSERTED:
        raise ValueError(f"its sizes for an input of {input_size} pixels and shares from {shares[0]} are not known")
    first, second = _INSERTED[input_size, low]
    return [input_size * first // 100, *small], [input_size * second // 100, *large]


def _frame(content: dict[str, Any], generator: dict[str, Any]) -> tuple[tuple[int, int] | None, Resized | None]:
    """Height and width of the network input, and how images get to it, as the test pipeline says."""
    size: tuple[int, int] | None = None
    resize: Resized | None = None
    for step in _dicts(content.get("test_pipeline")):
        match step.get("scale", step.get("img_scale")):
            case [int(width), int(height)] if size is None:
                size = height, width
        if resize is None and isinstance(step.get("keep_ratio"), bool):
            resize = "letterbox" if step["keep_ratio"] else "stretch"
    side = generator.get("input_size") if size is None else None
    return ((side, side) if isinstance(side, int) and side > 0 else size), resize
