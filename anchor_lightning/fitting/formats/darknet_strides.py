"""The strides of the layers of darknet's `.cfg` files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

NETS: Final = ("net", "network")
_SHRINKING: Final[Mapping[str, int]] = {  # kinds of layers that divide height and width by `stride`, and its default
    **{"convolutional": 1, "conv": 1, "maxpool": 1, "max": 1, "local_avgpool": 1, "reorg": 1, "reorg_old": 1},
    "reorg3d": 1,
}
_GROWING: Final[Mapping[str, int]] = {"upsample": 2, "deconvolutional": 1, "deconv": 1}


def layer_strides(sections: Sequence[tuple[str, Mapping[str, str]]]) -> list[float] | None:
    """Pixels of the network input per cell of each layer's output, in their order; `[net]` is no layer.

    None where that cannot be told: an option is no number, or a route names no layer before it.
    """
    strides: list[float] = []
    try:
        for kind, options in sections:
            if kind not in NETS:
                strides.append(_stride(kind, options, strides))
    except (ValueError, IndexError, ArithmeticError):
        return None
    return strides


def _stride(kind: str, options: Mapping[str, str], before: Sequence[float]) -> float:
    stride = before[-1] if before else 1.0
    if kind in _SHRINKING:
        return stride * int(options.get("stride", _SHRINKING[kind]))
    if kind in _GROWING:
        return stride / int(options.get("stride", _GROWING[kind]))
    if kind == "route":  # all that it joins have one size
        place = int(options["layers"].split(",")[0]) if "layers" in options else -1
        return before[place]
    return stride
