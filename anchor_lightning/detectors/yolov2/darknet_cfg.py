"""The text of a YOLOv2 as a `.cfg` of darknet, for `export`."""

from __future__ import annotations

from torch import Tensor

from anchor_lightning.anchors.initialization import GRID_UNIT
from anchor_lightning.detectors.backbones import STAGES, scaled
from anchor_lightning.detectors.yolo.darknet_cfg import Section, convolution, net_section, plain_convolution, text_of


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
    # %.9g: every float32 comes back as it was.
    anchors = ", ".join(f"{side:.9g}" for side in (wh.double() / GRID_UNIT).flatten().tolist())
    region: dict[str, object] = {"anchors": anchors, "bias_match": 1, "classes": num_classes, "coords": 4}
    region |= {"num": len(wh), "softmax": 1, "jitter": 0.3, "rescore": 1}
    region |= {"object_scale": 5, "noobject_scale": 1, "class_scale": 1, "coord_scale": 1}
    region |= {"absolute": 1, "thresh": f"{score_threshold:g}", "random": 0}
    sections: list[Section] = [net_section(image_size)]
    for index, rows in enumerate(STAGES):
        if index:
            sections.append(("maxpool", {"size": 2, "stride": 2}))
        sections += [convolution(scaled(filters, width), size) for filters, size in rows]
    full = scaled(1024, width)
    # From here the last layer at stride 16 is nine layers back.
    sections += [convolution(full, 3), convolution(full, 3), ("route", {"layers": -9})]
    sections += [convolution(scaled(64, width), 1), ("reorg", {"stride": 2}), ("route", {"layers": "-1,-4"})]
    sections.append(convolution(full, 3))
    sections += [plain_convolution(len(wh) * (5 + num_classes)), ("region", region)]
    return text_of(sections, comment, f"grid units: times {GRID_UNIT} they are pixels of the network input")
