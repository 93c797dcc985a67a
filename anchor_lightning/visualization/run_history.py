"""What a finished run says of its shapes and metrics, for notebooks: from its folder, or from Weights & Biases."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from anchor_lightning.errors import UserError

SIDE: Final = re.compile(r"anchors/(\d+)/([wh])")
STEP_KEYS: Final = ("step", "trainer/global_step")
"""In metrics.csv, and in W&B's history."""


@dataclass(frozen=True)
class RunHistory:
    """The logged values of a run.

    Args:
        steps: (S,) optimizer steps at which the shapes were logged, ascending.
        wh: (S, A, 2) widths and heights of the shapes at these steps, in pixels of the network input.
        scalars: By log key, (L, 2) rows of optimizer step and value.
    """

    steps: np.ndarray
    wh: np.ndarray
    scalars: dict[str, np.ndarray]


def read_history(source: str | Path) -> RunHistory:
    """Reads a run.

    Args:
        source: A run folder (with `metrics.csv`), or the path `entity/project/run_id` of a W&B run, for which W&B asks
            for a key.

    Raises:
        UserError: There is no such folder, or nothing of the shapes was logged.
    """
    folder = Path(source)
    if (folder / "metrics.csv").is_file():
        with (folder / "metrics.csv").open(newline="") as file:
            return history_of(csv.DictReader(file), str(source))
    if folder.exists() or str(source).count("/") != 2:
        raise UserError(f"{source}: no run folder (metrics.csv is missing), and no W&B path entity/project/run_id")
    import wandb  # slow to import, and most runs are folders

    return history_of(wandb.Api().run(str(source)).scan_history(), str(source))


def history_of(rows: Iterable[Mapping[str, Any]], source: str) -> RunHistory:
    """The history in logged rows, each with a step and some of the keys.

    Raises:
        UserError: No row holds the shapes.
    """
    scalars: dict[str, dict[int, float]] = {}
    for row in rows:
        step = next((int(row[key]) for key in STEP_KEYS if row.get(key) not in (None, "")), None)
        for key, value in row.items():
            if step is not None and "/" in key and key not in STEP_KEYS:
                try:
                    scalars.setdefault(key, {})[step] = float(value)
                except (TypeError, ValueError):  # an empty cell, a table or an image
                    continue
    sides = [match for key in scalars if (match := SIDE.fullmatch(key))]
    if not sides:
        raise UserError(f"{source}: nothing of the shapes was logged (anchors/K/w)")
    steps = sorted(scalars[sides[0][0]])
    num = 1 + max(int(match[1]) for match in sides)
    wh = np.array([[[scalars[f"anchors/{k}/{side}"][step] for side in "wh"] for k in range(num)] for step in steps])
    return RunHistory(
        np.array(steps), wh, {key: np.array(sorted(points.items())) for key, points in scalars.items() if points}
    )
