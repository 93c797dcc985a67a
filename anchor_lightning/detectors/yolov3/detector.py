"""YOLOv3 with learnable anchors: three levels at strides 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, ClassVar, Final

from torch import Tensor

from anchor_lightning.anchors import AnchorOptions, AnchorShapes
from anchor_lightning.anchors.initialization import GRID_UNIT
from anchor_lightning.detectors.backbones import Backbone, DarkNet53
from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.detectors.yolov3.darknet_cfg import cfg_text
from anchor_lightning.detectors.yolov3.loss import yolo_loss
from anchor_lightning.detectors.yolov3.network import STRIDES, YOLOv3Network
from anchor_lightning.errors import UserError
from anchor_lightning.structures import Assignment, DetectionBatch, Predictions, StepOptions

# The range of the paper's five uniform shapes with nine: sides of 3, 6 and 9 grid units, the smallest area first.
_UNIFORM: Final = sorted(
    ([float(w * GRID_UNIT), float(h * GRID_UNIT)] for w, h in product((3, 6, 9), repeat=2)),
    key=lambda shape: shape[0] * shape[1],
)


class YOLOv3(YOLO):
    """YOLOv3 (Redmon & Farhadi 2018) on DarkNet-53 or a network of timm, with the paper's learnable anchors.

    A box belongs to the best of all shapes, over the three levels, and to the cell of that shape's level; the soft
    assignment is over all shapes. Shapes stay on the level where they start: those of a file with levels, or of a list
    of levels, on its own; else a third of them on each, the first third at stride 8. `anchors.init` `uniform` is nine
    shapes of sides 96, 192 and 288 pixels.

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes.
        image_size: Not read: the shapes are in pixels.
        backbone: The name of a timm network with features at strides 8, 16 and 32 (the extra `timm`); `darknet53` if
            not given.
        options: As of `YOLO`.

    Raises:
        UserError: An option is out of its range, or does not go with another.
    """

    darknet_backbone: ClassVar[str] = "darknet53"
    strides: ClassVar[tuple[int, ...]] = STRIDES
    backbone_strides: ClassVar[tuple[int, ...]] = STRIDES
    num_shapes: ClassVar[int] = 9
    multi_label: ClassVar[bool] = True
    cfg_remark: ClassVar[str] = ""
    network: YOLOv3Network

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        backbone: str | None = None,
        **options: Any,
    ) -> None:
        if backbone == "darknet19":
            raise UserError(f"{backbone} has no features at stride 8; leave it out for darknet53", argument="backbone")
        super().__init__(num_classes, anchors, image_size, backbone=backbone, **options)

    def _make_shapes(self, anchors: AnchorOptions) -> AnchorShapes:
        if anchors.init != "uniform":
            return super()._make_shapes(anchors)
        if anchors.num not in (None, len(_UNIFORM)):
            raise UserError(
                f"{anchors.num}, but 'uniform' has {len(_UNIFORM)} shapes in YOLOv3; leave num out, or use init kmeans "
                "or identical, which make any multiple of 3",
                argument="anchors.num",
            )
        return super()._make_shapes(replace(anchors, init=_UNIFORM))

    def _make_darknet(self, width: float) -> Backbone:
        return DarkNet53(width)

    def _make_network(self, num_per_level: Sequence[int], *options: Any) -> YOLOv3Network:
        return YOLOv3Network(num_per_level, *options)

    def darknet_cfg(self, image_size: tuple[int, int], score_threshold: float, comment: str) -> str:
        """See `cfg_text`."""
        shapes, num_classes = self.anchors, self.network.heads[0].num_classes
        return cfg_text(shapes.wh, num_classes, image_size, self.width, score_threshold, comment, shapes.num_per_level)

    def _level_loss(
        self, level: Predictions, batch: DetectionBatch, assignment: Assignment, log_wh: Tensor, step: StepOptions
    ) -> dict[str, Tensor]:
        return yolo_loss(level, batch, assignment, log_wh)
