"""The text of a YOLOv3 as a `.cfg` of darknet, for `export`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anchor_lightning.detectors.backbones import RESIDUALS, scaled
from anchor_lightning.detectors.yolo.darknet_cfg import Section, convolution, net_section, plain_convolution, text_of
from anchor_lightning.detectors.yolov3.loss import IGNORE_IOU
from anchor_lightning.detectors.yolov3.network import BRANCH_CHANNELS


def cfg_text(
    wh: Tensor,
    num_classes: int,
    image_size: tuple[int, int],
    width: float = 1.0,
    score_threshold: float = 0.005,
    comment: str = "YOLOv3",
    num_per_level: Sequence[int] = (3, 3, 3),
) -> str:
    """The configuration of a YOLOv3 with given anchors, for C darknet and OpenCV.

    Args:
        wh: (A, 2) pixels of the network input, level after level.
        num_classes: C.
        image_size: Height and width of the network input in pixels.
        width: Channel multiplier.
        score_threshold: Scores up to this are dropped by OpenCV.
        comment: First line.
        num_per_level: Number of shapes at strides 8, 16 and 32.
    """
    sections, ends = _darknet53(width)
    places = torch.arange(len(wh)).split(list(num_per_level))
    # %.9g: every float32 comes back as it was.
    anchors = ",  ".join(f"{w:.9g},{h:.9g}" for w, h in wh.tolist())
    yolo: dict[str, object] = {"anchors": anchors, "classes": num_classes, "num": len(wh), "jitter": 0.3}
    yolo |= {"ignore_thresh": IGNORE_IOU, "truth_thresh": 1, "random": 0, "thresh": f"{score_threshold:g}"}
    for level in (2, 1, 0):  # the largest stride first
        own = scaled(BRANCH_CHANNELS[level], width)
        if level < 2:
            # The branch before ends with a 3x3 convolution, the plain one and [yolo]: what it passes on is before them.
            sections += [("route", {"layers": -4}), convolution(own, 1), ("upsample", {"stride": 2})]
            sections.append(("route", {"layers": f"-1, {ends[level]}"}))
        sections += [convolution(own * factor, 2 * factor - 1) for factor in (1, 2, 1, 2, 1, 2)]
        mask = ",".join(map(str, places[level].tolist()))
        sections += [plain_convolution(num_per_level[level] * (5 + num_classes)), ("yolo", {"mask": mask} | yolo)]
    return text_of([net_section(image_size), *sections], comment, "pixels of the network input")


def _darknet53(width: float) -> tuple[list[Section], list[int]]:
    """Its layers, and the indices of the last at strides 8, 16 and 32."""
    sections, ends = [convolution(scaled(32, width), 3)], list[int]()
    for index, num in enumerate(RESIDUALS):
        inner, outer = scaled(32 * 2**index, width), scaled(64 * 2**index, width)
        sections.append(convolution(outer, 3, stride=2))
        for _ in range(num):
            sections += [convolution(inner, 1), convolution(outer, 3)]
            sections.append(("shortcut", {"from": -3, "activation": "linear"}))
        ends.append(len(sections) - 1)
    return sections, ends[-3:]
