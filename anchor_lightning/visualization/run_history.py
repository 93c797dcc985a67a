"""What a finished run says of its shapes and metrics, for notebooks: from its folder, or from Weights & Biases."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from anchor_lightning.errors import UserError

STEP_KEYS: Final = ("step", "trainer/global_step")  # In metrics.csv, and in W&B's history


@dataclass(frozen=True)
class RunHistory:
    """The logged values of a run.

    Args:
        steps: (S,) optimizer steps at which the shapes were logged, ascending.
        wh: (S, A, 2) widths and heights of the shapes at these steps, in pixels of the network input.
        scalars: By log key, (L, 2) rows of optimizer step and value.
        num_per_level: Number of shapes of each level, finest first; empty where the run does not say, as on W&B.
    """

    steps: np.ndarray
    wh: np.ndarray
    scalars: dict[str, np.ndarray]
    num_per_level: tuple[int, ...] = ()


def read_history(source: str | Path) -> RunHistory:
    """Reads a run.

    Args:
        source: A run folder (with `metrics.csv`), or the path `entity/project/run_id` of a W&B run, for which W&B asks
            for a key.

    Raises:
        UserError: There is no such folder, or nothing of the shapes was logged.
    """
    file = Path(source) / "metrics.csv"
    if file.is_file():
        history = _history(csv.DictReader(file.read_text().splitlines()), source)
        shapes = file.with_name("anchors.json")
        levels = json.loads(shapes.read_text(encoding="utf-8"))["per_level"] if shapes.is_file() else ()
        return replace(history, num_per_level=tuple(levels))
    if Path(source).exists() or str(source).count("/") != 2:
        raise UserError(f"{source}: no run folder (metrics.csv is missing), and no W&B path entity/project/run_id")
    import wandb  # slow to import, and most runs are folders

    return _history(wandb.Api().run(str(source)).scan_history(), source)


def _history(rows: Iterable[Mapping[str, Any]], source: str | Path) -> RunHistory:
    scalars: dict[str, dict[int, float]] = {}
    for row in rows:
        step = next((int(row[key]) for key in STEP_KEYS if row.get(key) not in (None, "")), None)
        for key, value in row.items():
            if step is not None and "/" in key and key not in STEP_KEYS:
                try:
                    scalars.setdefault(key, {})[step] = float(value)
                except (TypeError, ValueError):  # an empty cell, a table or an image
                    continue
    num = sum(re.fullmatch(r"anchors/\d+/w", key) is not None for key in scalars)
    if not num:
        raise UserError(f"{source}: nothing of the shapes was logged (anchors/K/w)")
    steps = sorted(scalars["anchors/0/w"])
    wh = np.array([[[scalars[f"anchors/{k}/{side}"][step] for side in "wh"] for k in range(num)] for step in steps])
    return RunHistory(np.array(steps), wh, {key: np.array(sorted(points.items())) for key, points in scalars.items()})
