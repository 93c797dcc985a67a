"""Sizes of the network input."""

from __future__ import annotations

from typing import Final

from anchor_lightning.errors import UserError

MULTIPLE: Final = 32
"""Pixels; every side is a multiple of it, the coarsest stride of the detectors."""
LARGEST: Final = 16384
"""Pixels; one such image is 3 GB as the network sees it."""


def parse_image_size(value: int | list[int], argument: str = "image_size") -> tuple[int, int]:
    """Height and width from one int or [height, width].

    Args:
        value: The size.
        argument: Name of the argument that has it, for the error.

    Raises:
        UserError: A side is no positive multiple of 32; names the nearest valid values.
    """
    sides = [value, value] if isinstance(value, int) else list(value)
    if len(sides) != 2:
        raise UserError(f"must be one int or [height, width], got {value!r}.", argument)
    for side in sides:
        if side > LARGEST:
            raise UserError(f"must be {LARGEST} or less, got {value!r}.", argument)
        if side <= 0 or side % MULTIPLE:
            lower = side // MULTIPLE * MULTIPLE
            nearest = f"{lower} or {lower + MULTIPLE}" if lower > 0 else str(MULTIPLE)
            raise UserError(f"must be a positive multiple of {MULTIPLE}, got {value!r}. Try {nearest}.", argument)
    return sides[0], sides[1]
