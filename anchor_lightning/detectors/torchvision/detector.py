"""torchvision's detectors with learnable anchors, each with the options of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.detectors.torchvision import models
from anchor_lightning.detectors.torchvision.backbone_options import TimmOptions, channels_of, stated_channels
from anchor_lightning.detectors.torchvision.base import TorchvisionDetector
from anchor_lightning.errors import UserError
from anchor_lightning.structures import DetectorOutput


class FasterRCNN(TorchvisionDetector):
    """torchvision's Faster R-CNN, on a feature pyramid or on the fourth stage of a ResNet.

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes of the first stage; `init: model` is torchvision's own.
        image_size: Not read: the shapes are in pixels.
        backbone: `resnet50`, or `small`: ten layers, for machines without GPU and inputs of about 256 pixels; or the
            name of a timm network with features at strides 4, 8, 16 and 32 (the extra `timm`; its own ResNet-50 is
            `resnet50.a1_in1k`).
        fpn: A feature pyramid (Lin et al. 2017); without, the fifth stage is the second stage's head (He et al. 2016).
        backbone_weights: torchvision's name of ResNet-50 weights to download (`IMAGENET1K_V1`), or a state dict's path;
            of a timm network a file (`.pth`, `.safetensors`), or `pretrained`, which timm downloads.
        pyramid_channels: Channels of the pyramid, a multiple of 32; if not given 64 with `small`, else 256.
        freeze_backbone: Of a timm network, the number of stages, from the image on, that are not trained; or `all`.
            Of torchvision's ResNet-50 with weights the first two stages and the norms are not, whatever this says.
        freeze_norms: Of a timm network, whether its batch norms keep scale, shift and statistics; if not given, they do
            with `backbone_weights`.
        backbone_lr_mult: Factor on the learning rate of a timm network.
        bound_octaves: How far the scale of a shape may leave those with which its level started, in factors of 2;
            without limit if not given.
        share_levels: The shapes of all levels move together, as one set in units of each level's own; with `fpn`.

    Raises:
        UserError: The shapes do not fit, there are no weights for the backbone, or an option does not go with it.
    """

    has_proposals: ClassVar[bool] = True
    pyramid_levels: ClassVar[tuple[int, ...]] = (1, 2, 3, 4)  # of the backbone; level n has stride 2 ** (n + 1)

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        backbone: str = "resnet50",
        fpn: bool = True,
        backbone_weights: str | None = None,
        pyramid_channels: int | None = None,
        freeze_backbone: int | Literal["all"] = 0,
        freeze_norms: bool | None = None,
        backbone_lr_mult: float = 1.0,
        bound_octaves: float | None = None,
        share_levels: bool = False,
    ) -> None:
        pretrained, channels = backbone_weights is not None, channels_of(backbone, pyramid_channels)
        if fpn:
            built = models.faster_rcnn_fpn(num_classes, backbone, pretrained, channels, self.pyramid_levels)
        elif pyramid_channels is not None:
            raise UserError(f"{pyramid_channels}, but there is no pyramid with fpn false", argument="pyramid_channels")
        elif backbone in models.RESNETS:
            built = models.faster_rcnn_c4(num_classes, backbone, pretrained)
        else:
            known = " and ".join(models.RESNETS)
            raise UserError(f"false is for {known}; {backbone} needs a pyramid, leave it out", argument="fpn")
        heads = [built[0].rpn.head, built[0].roi_heads.box_predictor]
        architecture = {"backbone": backbone, "fpn": fpn, "pyramid_channels": stated_channels(backbone, channels)}
        timm = TimmOptions(freeze_backbone, freeze_norms, backbone_lr_mult)
        super().__init__(built, anchors, backbone_weights, heads, architecture, timm, bound_octaves, share_levels)
        self._proposals: list[Tensor] = []
        self.model.rpn.register_forward_hook(self._keep_proposals)

    def detect(self, images: Tensor, score_threshold: float) -> DetectorOutput:
        """The detections, and the first stage's proposals, of (B, 3, H, W) images in pixels of the network input."""
        output = super().detect(images, score_threshold)
        proposals, self._proposals = self._proposals, []
        return output._replace(proposals=proposals)

    def _keep_proposals(self, module: nn.Module, args: Any, output: tuple[list[Tensor], Any]) -> None:
        if not self.training:
            self._proposals = output[0]


class RetinaNet(TorchvisionDetector):
    """torchvision's RetinaNet (Lin et al. 2017).

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes; `init: model` is torchvision's own.
        image_size: Not read: the shapes are in pixels.
        backbone: `resnet50`, or `small`: ten layers, for machines without GPU and inputs of about 256 pixels; or the
            name of a timm network with features at strides 8, 16 and 32 (the extra `timm`; its own ResNet-50 is
            `resnet50.a1_in1k`).
        backbone_weights: As of `FasterRCNN`, and so are the others.
        pyramid_channels: Channels of the pyramid and the heads.
        freeze_backbone: Stages of a timm network that are not trained.
        freeze_norms: Whether batch norms of a timm network stay as they are.
        backbone_lr_mult: Factor on the learning rate of a timm network.
        bound_octaves: As of `FasterRCNN`.
        share_levels: As of `FasterRCNN`.

    Raises:
        UserError: The shapes do not fit, there are no weights for the backbone, or an option does not go with it.
    """

    first_label: ClassVar[int] = 0

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        pyramid_channels: int | None = None,
        freeze_backbone: int | Literal["all"] = 0,
        freeze_norms: bool | None = None,
        backbone_lr_mult: float = 1.0,
        bound_octaves: float | None = None,
        share_levels: bool = False,
    ) -> None:
        channels = channels_of(backbone, pyramid_channels)
        built = models.retinanet(num_classes, backbone, backbone_weights is not None, channels)
        architecture = {"backbone": backbone, "pyramid_channels": stated_channels(backbone, channels)}
        timm = TimmOptions(freeze_backbone, freeze_norms, backbone_lr_mult)
        heads = [built[0].head]
        super().__init__(built, anchors, backbone_weights, heads, architecture, timm, bound_octaves, share_levels)


class SSD(TorchvisionDetector):
    """torchvision's SSD (Liu et al. 2016).

    Args:
        num_classes: C >= 1.
        anchors: Start of the shapes; `init: model` is torchvision's own.
        image_size: Height and width, of which the shapes are shares; 300 x 300 (`small`: 256 x 256) if not given.
        backbone: `vgg16`, or `small`: three levels of a ResNet of ten layers, for machines without GPU.
        backbone_weights: `IMAGENET1K_FEATURES` to download, or the path of a VGG-16's state dict; see `load_backbone`.
        bound_octaves: As of `FasterRCNN`.

    Raises:
        UserError: The shapes do not fit, there are no weights for the backbone, or an option is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        anchors: AnchorOptions,
        image_size: Sequence[int] | None = None,
        backbone: Literal["vgg16", "small"] = "vgg16",
        backbone_weights: str | None = None,
        bound_octaves: float | None = None,
    ) -> None:
        build = models.ssd_small if backbone == "small" else models.ssd300
        size = [(image_size[1], image_size[0])] if image_size else []
        built = build(num_classes, backbone_weights is not None, *size)
        architecture = {"backbone": backbone, "image_size": list(image_size) if image_size else None}
        super().__init__(built, anchors, backbone_weights, [built[0].head], architecture, bound_octaves=bound_octaves)
