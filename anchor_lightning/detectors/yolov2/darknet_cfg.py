"""The text of a YOLOv2 as a `.cfg` of darknet, for `export`."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from anchor_lightning.anchors.initialization import GRID_UNIT
from anchor_lightning.detectors.backbones import STAGES, scaled

_NOTES: Final = (
    "# anchors are in grid units: times 32 they are pixels of the network input",
    "# thresh is the lowest score that OpenCV keeps; C darknet reads it in training only, where it should be .6",
    "# trained on stretched images, as AlexeyAB's darknet and OpenCV resize them; the original C darknet letterboxes",
)


def cfg_text(
    wh: Tensor,
    num_classes: int,
    image_size: tuple[int, int],
    width: float = 1.0,
    score_threshold: float = 0.005,
    comment: str = "YOLOv2",
) -> str:
    """The configuration of a YOLOv2 with given anchors, for C darknet and OpenCV.

    Args:
        wh: (A, 2) pixels of the network input; written in grid units.
        num_classes: C.
        image_size: Height and width of the network input in pixels.
        width: Channel multiplier.
        score_threshold: Scores up to this are dropped by OpenCV.
        comment: First line.
    """
    height_px, width_px = image_size
    # %.9g: every float32 comes back as it was.
    anchors = ", ".join(f"{side:.9g}" for side in (wh.double() / GRID_UNIT).flatten().tolist())
    net: dict[str, object] = {"batch": 1, "subdivisions": 1, "width": width_px, "height": height_px, "channels": 3}
    net |= {"momentum": 0.9, "decay": 0.0005, "angle": 0, "saturation": 1.5, "exposure": 1.5, "hue": 0.1}
    net |= {"learning_rate": 0.001, "burn_in": 1000, "max_batches": 80200, "policy": "steps"}
    net |= {"steps": "40000,60000", "scales": ".1,.1"}
    region: dict[str, object] = {"anchors": anchors, "bias_match": 1, "classes": num_classes, "coords": 4}
    region |= {"num": len(wh), "softmax": 1, "jitter": 0.3, "rescore": 1}
    region |= {"object_scale": 5, "noobject_scale": 1, "class_scale": 1, "coord_scale": 1}
    region |= {"absolute": 1, "thresh": f"{score_threshold:g}", "random": 0}
    sections: list[tuple[str, dict[str, object]]] = [("net", net)]
    for index, rows in enumerate(STAGES):
        if index:
            sections.append(("maxpool", {"size": 2, "stride": 2}))
        sections += [_convolution(scaled(filters, width), size) for filters, size in rows]
    full = scaled(1024, width)
    # From here the last layer at stride 16 is nine layers back.
    sections += [_convolution(full, 3), _convolution(full, 3), ("route", {"layers": -9})]
    sections += [_convolution(scaled(64, width), 1), ("reorg", {"stride": 2}), ("route", {"layers": "-1,-4"})]
    sections.append(_convolution(full, 3))
    last = {"size": 1, "stride": 1, "pad": 1, "filters": len(wh) * (5 + num_classes), "activation": "linear"}
    sections += [("convolutional", last), ("region", region)]
    lines = [f"# {comment}", *_NOTES, ""]
    for kind, options in sections:
        lines += [f"[{kind}]", *(f"{name}={value}" for name, value in options.items()), ""]
    return "\n".join(lines)


def _convolution(filters: int, size: int) -> tuple[str, dict[str, object]]:
    options = {"batch_normalize": 1, "filters": filters, "size": size, "stride": 1, "pad": 1, "activation": "leaky"}
    return "convolutional", options
