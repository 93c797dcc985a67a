"""The sections that the `.cfg` files of darknet's detectors share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

Section = tuple[str, dict[str, object]]
_NOTES: Final = (
    "# thresh is the lowest score that OpenCV keeps; C darknet reads it in training only, where it should be .6",
    "# trained on stretched images, as AlexeyAB's darknet and OpenCV resize them; the original C darknet letterboxes",
)


def net_section(image_size: tuple[int, int]) -> Section:
    """`[net]` for an input of this height and width in pixels."""
    height_px, width_px = image_size
    net: dict[str, object] = {"batch": 1, "subdivisions": 1, "width": width_px, "height": height_px, "channels": 3}
    net |= {"momentum": 0.9, "decay": 0.0005, "angle": 0, "saturation": 1.5, "exposure": 1.5, "hue": 0.1}
    net |= {"learning_rate": 0.001, "burn_in": 1000, "max_batches": 80200, "policy": "steps"}
    return "net", net | {"steps": "40000,60000", "scales": ".1,.1"}


def convolution(filters: int, size: int, stride: int = 1) -> Section:
    """A convolution with batch norm and leaky ReLU."""
    options = {"batch_normalize": 1, "filters": filters, "size": size, "stride": stride, "pad": 1}
    return "convolutional", options | {"activation": "leaky"}


def plain_convolution(filters: int) -> Section:
    """The last convolution before the anchors."""
    return "convolutional", {"size": 1, "stride": 1, "pad": 1, "filters": filters, "activation": "linear"}


def text_of(sections: Sequence[Section], comment: str, unit: str) -> str:
    """A configuration's text; `unit` says in what the anchors are."""
    lines = [f"# {comment}", f"# anchors are in {unit}", *_NOTES, ""]
    for kind, options in sections:
        lines += [f"[{kind}]", *(f"{name}={value}" for name, value in options.items()), ""]
    return "\n".join(lines)
