"""Torchvision detectors of every kind, small enough to train in milliseconds."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

Targets = list[dict[str, Tensor]]

SIZE: Final = (96, 128)  # height, width
KINDS: Final = ("c4", "fpn", "retinanet", "ssd")
BOX_LOSS: Final = dict(zip(KINDS, 2 * ["loss_rpn_box_reg"] + 2 * ["bbox_regression"], strict=True))
RATIOS: Final = (0.5, 1.0, 2.0)


class Pyramid(nn.Module):
    """As many feature maps as there are strides, one alone as a tensor."""

    def __init__(self, strides: list[int], channels: int = 8) -> None:
        super().__init__()
        factors = [high // low for low, high in itertools.pairwise([1, *strides])]
        inputs = [3] + [channels] * (len(strides) - 1)
        self.convs = nn.ModuleList(nn.Conv2d(i, channels, f, f) for i, f in zip(inputs, factors, strict=True))
        self.out_channels = channels

    def forward(self, images: Tensor) -> Tensor | OrderedDict[str, Tensor]:
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for index, conv in enumerate(self.convs):
            images = maps[str(index)] = conv(images).tanh()
        return maps if len(maps) > 1 else images


def make_detector(kind: str, seed: int = 0, clip: bool = True) -> Any:
    """A detector of a `kind` for images of `SIZE`, which finds something in anything."""
    torch.manual_seed(seed)
    size = {"min_size": SIZE[0], "max_size": SIZE[1]}
    if kind == "ssd":
        backbone = Pyramid([16, 32])
        backbone.out_channels = [8, 8]  # type: ignore[assignment]
        boxes = DefaultBoxGenerator([[2], [2, 3]], scales=[0.2, 0.45, 2.3], clip=clip)
        model = SSD(backbone, boxes, (SIZE[1], SIZE[0]), 4, score_thresh=0.0, topk_candidates=50)
        box_heads = list(model.head.regression_head.module_list)
    elif kind == "retinanet":
        anchors = AnchorGenerator(((16, 24), (32, 48)), (RATIOS, RATIOS))
        model = RetinaNet(Pyramid([16, 32]), 4, anchor_generator=anchors, score_thresh=0.0, topk_candidates=50, **size)
        box_heads = [model.head.regression_head.bbox_reg]
    else:
        sizes = ((16, 32, 48),) if kind == "c4" else ((20,), (44,))
        model = FasterRCNN(
            Pyramid([16] if kind == "c4" else [16, 32]),
            4,
            rpn_anchor_generator=AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
            rpn_pre_nms_top_n_test=50,
            rpn_pre_nms_top_n_train=50,
            box_batch_size_per_image=16,
            box_score_thresh=0.0,
            box_detections_per_img=20,
            **size,
        )
        box_heads = [model.rpn.head.bbox_pred]
    for head in box_heads:  # offsets that are not next to 0
        nn.init.normal_(head.weight, std=0.1)
    return model


def make_images(seed: int = 0, num: int = 2) -> list[Tensor]:
    """`num` images of `SIZE`."""
    return list(torch.rand(num, 3, *SIZE, generator=torch.Generator().manual_seed(seed)))


def make_targets(*boxes: list[list[float]]) -> Targets:
    """Targets of as many images as there are lists of x1, y1, x2, y2."""
    return [{"boxes": torch.tensor(rows).reshape(-1, 4), "labels": 1 + torch.arange(len(rows)) % 3} for rows in boxes]


# Off the grid, so that no two anchors meet a box equally well.
TARGETS: Final = make_targets([[3.1, 7.3, 43.7, 38.2], [61.3, 30.9, 118.8, 92.4]], [[20.7, 10.3, 52.2, 81.9]])


def losses_of(model: Any, targets: Targets = TARGETS) -> dict[str, Tensor]:
    """The loss dict of a training forward pass on the same images with the same samples each time."""
    torch.manual_seed(1)
    images = [image.to(next(model.parameters()).dtype) for image in make_images(num=len(targets))]
    losses: dict[str, Tensor] = model.train()(images, copy.deepcopy(targets))
    return losses


@torch.no_grad()
def predictions_of(model: Any) -> list[dict[str, Tensor]]:
    """What it finds in two images, at least something."""
    found: list[dict[str, Tensor]] = model.eval()(make_images(3))
    assert sum(len(image["boxes"]) for image in found) > 4
    return found


def same(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> bool:
    """Whether lists of dicts are equal to the bit, names and their order included."""
    names = [list(one) for one in ours] == [list(one) for one in theirs]
    return names and all(torch.equal(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) for name in a)
