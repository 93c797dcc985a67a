"""The metrics of `validate` and `test` as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import SupportsFloat

from anchor_lightning.commands.anchor_tables import aligned


def metrics_text(metrics: Mapping[str, SupportsFloat]) -> str:
    """Two tables: a line a metric, and a line a class with its average precisions; values have four digits.

    Args:
        metrics: By their logged names: `test/map_50`, `test/ap/CLASS` for a class, and what callbacks of the user's
            have logged; NaN, for which there are no boxes to measure, is shown as `-`.
    """
    whole: list[list[str]] = []
    by_class: dict[str, dict[str, str]] = {}
    for name, value in metrics.items():
        parts = name.split("/", 2)  # the name of a class may hold a slash itself
        text = "-" if math.isnan(float(value)) else f"{float(value):.4f}"
        if len(parts) == 3:
            by_class.setdefault(parts[2], {})[parts[1]] = text
        else:
            whole.append([name, text])
    tables = [aligned([["metric", "value"], *whole])] if whole else []
    if by_class:
        heads = list(dict.fromkeys(head for values in by_class.values() for head in values))
        rows = [[name, *(values.get(head, "-") for head in heads)] for name, values in by_class.items()]
        tables.append(aligned([["class", *heads], *rows]))
    return "\n\n".join(tables)
