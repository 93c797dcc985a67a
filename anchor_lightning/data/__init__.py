"""The data sets, and their data modules."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from anchor_lightning.data.annotated_set import AnnotatedSet
from anchor_lightning.data.formats.brainwash import BrainwashSet
from anchor_lightning.data.formats.coco import COCOSet
from anchor_lightning.data.formats.voc import VOCSet
from anchor_lightning.data.formats.yolo import YOLOSet
from anchor_lightning.data.synthetic import SyntheticSet

if TYPE_CHECKING:
    from anchor_lightning.data.modules import (
        BrainwashDataModule,
        COCODataModule,
        DetectionDataModule,
        SyntheticDataModule,
        VOCDataModule,
        YOLODataModule,
    )

__all__ = [
    "SETS",
    "AnnotatedSet",
    "BrainwashDataModule",
    "BrainwashSet",
    "COCODataModule",
    "COCOSet",
    "DetectionDataModule",
    "SyntheticDataModule",
    "SyntheticSet",
    "VOCDataModule",
    "VOCSet",
    "YOLODataModule",
    "YOLOSet",
    "module_name",
]

# By the data module that loads it: whoever asks for its boxes alone need not wait for Lightning.
SETS: Final[dict[str, type[AnnotatedSet]]] = {
    "BrainwashDataModule": BrainwashSet,
    "COCODataModule": COCOSet,
    "SyntheticDataModule": SyntheticSet,
    "VOCDataModule": VOCSet,
    "YOLODataModule": YOLOSet,
}


def module_name(name: str) -> str:
    """The name of the data module that loads a set, by the name of the set's class; other names as they are."""
    return next((module for module, kind in SETS.items() if kind.__name__ == name), name)


def __getattr__(name: str) -> Any:
    # Imported on first use, as they import Lightning.
    if name not in (*SETS, "DetectionDataModule"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.modules"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *SETS, "DetectionDataModule"])
