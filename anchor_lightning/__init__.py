"""Anchor boxes that a detector learns by itself, after Zhong, Wang, Peng & Zhang."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchor_lightning.anchors import AnchorOptions as AnchorOptions
    from anchor_lightning.anchors import AnchorShapes as AnchorShapes
    from anchor_lightning.callbacks.learn_anchors import LearnAnchors as LearnAnchors
    from anchor_lightning.commands.data_anchors import fit_anchors as fit_anchors
    from anchor_lightning.commands.data_anchors import score_anchors as score_anchors
    from anchor_lightning.detectors.torchvision.convert import anchor_shapes as anchor_shapes
    from anchor_lightning.detectors.torchvision.convert import freeze_anchors as freeze_anchors
    from anchor_lightning.detectors.torchvision.convert import make_anchors_learnable as make_anchors_learnable
    from anchor_lightning.task import DetectionTask as DetectionTask

__version__ = "0.1.0"

_MODULES = {
    **dict.fromkeys(("AnchorOptions", "AnchorShapes"), "anchors"),
    **dict.fromkeys(("fit_anchors", "score_anchors"), "commands.data_anchors"),
    "DetectionTask": "task",
    "LearnAnchors": "callbacks.learn_anchors",
    **dict.fromkeys(("anchor_shapes", "freeze_anchors", "make_anchors_learnable"), "detectors.torchvision.convert"),
}


def __getattr__(name: str) -> Any:
    # Imported on first use: a part of the package, such as `anchors`, need not wait for Lightning and torchvision.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
