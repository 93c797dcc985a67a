"""Readers of the texts that `export` writes for other tools; darknet's is `read_anchors` of its detector.

All but `read_json` return the shapes of every level in pixels, smallest stride first.
"""

from __future__ import annotations

import ast
import json

import torch
import yaml
from torch import Tensor

from anchor_lightning.fitting.formats import FORMAT, RESIZED, AnchorSet


def read_ultralytics(text: str) -> list[Tensor]:
    """The shapes of a YOLOv5 model yaml, an (A / levels, 2) tensor a level, smallest stride first.

    Raises:
        ValueError: It has no `anchors` that are rows of pairs.
    """
    try:
        rows = yaml.safe_load(text)["anchors"]
        return [torch.tensor(row, dtype=torch.float32).reshape(-1, 2) for row in rows]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RuntimeError):
        raise ValueError("The text is no model yaml with `anchors:`, a row of pixels w,h, w,h, … a level") from None


def read_mmdet(text: str) -> list[Tensor]:
    """The `base_sizes` of the first YOLOAnchorGenerator in a config, smallest stride first; nothing is executed.

    Raises:
        ValueError: There is none.
    """
    for node in _nodes(text):
        if isinstance(node, ast.keyword) and node.arg == "base_sizes":
            return _shapes(node.value)[::-1]
    raise ValueError("The text is no Python config with base_sizes=[[(w, h), …], …]")


def read_torchvision(text: str) -> list[Tensor]:
    """The shapes of a snippet that `anchors_text` wrote, smallest stride first; nothing is executed.

    Raises:
        ValueError: It has no `anchor_wh`.
    """
    for node in _nodes(text):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "anchor_wh" for t in node.targets):
            return _shapes(node.value)
    raise ValueError("The text is no Python snippet with anchor_wh = [[(w, h), …], …]")


def read_json(text: str) -> AnchorSet:
    """What `anchors fit` and `anchors export --to json` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError
        size, resize = content["image_size"], content.get("resize")  # older files do not say how images were resized
        if resize not in (None, *RESIZED):
            raise ValueError
        return AnchorSet(
            torch.tensor(content["anchors"], dtype=torch.float32).reshape(-1, 2),
            int(content["levels"]),
            str(content["source"]),
            None if size is None else (int(size[0]), int(size[1])),
            {str(name): float(value) for name, value in content["score"].items()},
            resize,
        )
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError):
        raise ValueError("The text is no anchors.json of anchor_lightning (anchors fit writes one)") from None


def _nodes(text: str) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return []


def _shapes(node: ast.expr) -> list[Tensor]:
    try:
        return [torch.tensor(level, dtype=torch.float32).reshape(-1, 2) for level in ast.literal_eval(node)]
    except (ValueError, TypeError, RuntimeError):
        raise ValueError("The shapes in the text are no lists of (w, h)") from None
