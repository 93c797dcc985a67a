"""The options that state the size of the network input."""

from __future__ import annotations

from typing import Final

MAX_STRIDE: Final = 32
LARGEST: Final = 16384
"""Pixels; one such image is 3 GB as the network sees it."""


def parse_image_size(value: int | list[int], field: str) -> tuple[int, int]:
    """Height and width from an option that is one int or [height, width].

    Raises:
        ValueError: If a side is no positive multiple of 32; names `field` and the nearest valid values.
    """
    sides = [value, value] if isinstance(value, int) else list(value)
    if len(sides) != 2:
        raise ValueError(f"{field} must be one int or [height, width], got {value!r}.")
    for side in sides:
        if side > LARGEST:
            raise ValueError(f"{field} must be {LARGEST} or less, got {value!r}.")
        if side <= 0 or side % MAX_STRIDE:
            lower = side // MAX_STRIDE * MAX_STRIDE
            nearest = f"{lower} or {lower + MAX_STRIDE}" if lower > 0 else str(MAX_STRIDE)
            raise ValueError(f"{field} must be a positive multiple of {MAX_STRIDE}, got {value!r}. Try {nearest}.")
    return sides[0], sides[1]
