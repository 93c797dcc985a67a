"""Builders of torchvision's detectors from its own and timm's parts only: after `freeze_anchors` they load without us.

The `small` backbone is for tests and machines without GPU, with stock anchors of half the size for about 256 pixels.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import fx, nn
from torchvision.models import ResNet50_Weights, VGG16_Weights, resnet50, vgg16
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.ssd import SSD, _vgg_extractor
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from anchor_lightning.detectors.timm_backbone import TimmBackbone
from anchor_lightning.errors import UserError

RATIOS: Final = (0.5, 1.0, 2.0)
CHANNELS: Final = 256  # torchvision's, of a pyramid
MAX_DETECTIONS: Final = 300
SMALL_SECOND_STAGE: Final = {
    "box_batch_size_per_image": 128,
    "rpn_pre_nms_top_n_train": 1000,
    "rpn_post_nms_top_n_train": 500,
}
RESNETS: Final = ("resnet50", "small")
Built = tuple[Any, nn.Module]  # The detector, and the classification network that its backbone was made from


def faster_rcnn_c4(num_classes: int, backbone: str, pretrained: bool) -> Built:
    """Faster R-CNN on the fourth stage of a ResNet, whose fifth is the second stage's head (He et al. 2016)."""
    small, resnet = backbone == "small", resnet_of(backbone, pretrained)
    head = nn.Sequential(resnet.layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    features = IntermediateLayerGetter(resnet, {"layer3": "0"})
    features.out_channels = 256 if small else 1024
    sizes = tuple(side // (2 if small else 1) for side in (32, 64, 128, 256, 512))
    model = FasterRCNN(
        features,
        rpn_anchor_generator=AnchorGenerator((sizes,), (RATIOS,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7 if small else 14, sampling_ratio=2),
        box_head=head,
        box_predictor=FastRCNNPredictor(512 if small else 2048, num_classes + 1),
        box_detections_per_img=MAX_DETECTIONS,
        _skip_resize=True,
        **(SMALL_SECOND_STAGE if small else {}),
    )
    return model, resnet


def faster_rcnn_fpn(num_classes: int, backbone: str, pretrained: bool, channels: int, levels: tuple[int, ...]) -> Built:
    """Faster R-CNN on a feature pyramid (Lin et al. 2017) of so many `channels`, as `fasterrcnn_resnet50_fpn`.

    `levels` as of `pyramid`; there is one level more, and the shapes of each level are twice those of the one before.
    """
    small, hidden = backbone == "small", 4 * channels
    features, network = pyramid(backbone, pretrained, channels, LastLevelMaxPool, levels)
    sizes = tuple(((16 if small else 32) * 2**place,) for place in range(len(levels) + 1))
    model = FasterRCNN(
        features,
        box_head=TwoMLPHead(channels * 7 * 7, hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes + 1),
        rpn_anchor_generator=AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        box_detections_per_img=MAX_DETECTIONS,
        _skip_resize=True,
        **(SMALL_SECOND_STAGE if small else {}),
        **preparation(network),
    )
    if channels < CHANNELS:
        # torchvision's standard deviation of 0.01 suits 256 channels; of 64 it leaves next to no signal.
        nn.init.kaiming_normal_(model.rpn.head.conv[0][0].weight, nonlinearity="relu")
    return model, network


def retinanet(num_classes: int, backbone: str, pretrained: bool, channels: int) -> Built:
    """RetinaNet (Lin et al. 2017), as `retinanet_resnet50_fpn`; it has no output for the background."""
    small = backbone == "small"
    coarsest = partial(LastLevelP6P7, channels, channels)
    features, network = pyramid(backbone, pretrained, channels, coarsest, levels=(2, 3, 4))
    octaves = [side / (2 if small else 1) for side in (32, 64, 128, 256, 512)]
    sizes = tuple(tuple(int(side * 2 ** (third / 3)) for third in range(3)) for side in octaves)
    generator = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
    # As torchvision's second version: four convolutions that start near 0 would leave 64 channels next to no signal.
    norm = partial(nn.GroupNorm, 32) if channels < CHANNELS else None
    model = RetinaNet(
        features,
        num_classes,
        anchor_generator=generator,
        head=RetinaNetHead(channels, generator.num_anchors_per_location()[0], num_classes, norm_layer=norm),
        detections_per_img=MAX_DETECTIONS,
        _skip_resize=True,
        **preparation(network),
    )
    return model, network


def ssd300(num_classes: int, pretrained: bool, size: tuple[int, int] = (300, 300)) -> Built:
    """SSD300's network and boxes (Liu et al. 2016), for inputs of any size, such as 320 pixels."""
    vgg = vgg16(weights=None)
    vgg.classifier = nn.Identity()
    boxes = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]], scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    )  # without `steps`, which are those of 300 pixels
    model = SSD(
        _vgg_extractor(vgg, highres=False, trainable_layers=4 if pretrained else 5),
        boxes,
        size,
        num_classes + 1,
        image_mean=(0.48235, 0.45882, 0.40784),
        image_std=(1 / 255, 1 / 255, 1 / 255),
        detections_per_img=MAX_DETECTIONS,
        _skip_resize=True,
    )
    return model, vgg


def ssd_small(num_classes: int, pretrained: bool, size: tuple[int, int] = (256, 256)) -> Built:
    """SSD on three stages of a small ResNet, strides 8, 16 and 32."""
    resnet = resnet_of("small", pretrained)
    features = IntermediateLayerGetter(resnet, {"layer2": "0", "layer3": "1", "layer4": "2"})
    features.out_channels = [128, 256, 512]
    boxes = DefaultBoxGenerator([[2], [2, 3], [2, 3]], scales=[0.1, 0.25, 0.5, 0.9])
    model = SSD(features, boxes, size, num_classes + 1, detections_per_img=MAX_DETECTIONS, _skip_resize=True)
    return model, resnet


def pyramid(
    backbone: str, pretrained: bool, channels: int, coarsest: Callable[[], ExtraFPNBlock], levels: tuple[int, ...]
) -> tuple[nn.Module, nn.Module]:
    """A feature pyramid over levels of a backbone, level n of stride 2 ** (n + 1), and the network it was made from.

    `coarsest` makes the levels above, after the network is made: random weights are drawn in this order.
    """
    if backbone in RESNETS:
        resnet = resnet_of(backbone, pretrained)
        stages = {f"layer{level}": str(place) for place, level in enumerate(levels)}
        widths = [(32 if backbone == "small" else 128) * 2**level for level in levels]
        return BackboneWithFPN(resnet, stages, widths, channels, coarsest()), resnet
    network = TimmBackbone(backbone, [2 ** (level + 1) for level in levels], "torchvision's are resnet50 and small")
    features = nn.Sequential(
        OrderedDict(body=_as_dict(network), fpn=FeaturePyramidNetwork(list(network.channels), channels, coarsest()))
    )
    features.out_channels = channels  # type: ignore[assignment]
    return features, network


def _as_dict(backbone: TimmBackbone) -> fx.GraphModule:
    """A network of timm with features by name, as a pyramid takes them: a graph, without a class of this package."""
    graph = fx.Graph()
    features = graph.call_module("network", (graph.placeholder("images"),))
    graph.output({str(i): graph.call_function(operator.getitem, (features, p)) for i, p in enumerate(backbone.places)})
    return fx.GraphModule({"network": backbone.network}, graph, "TimmFeatures")


def preparation(network: nn.Module) -> dict[str, list[float]]:
    """What a detector's transform does to images in [0, 1] for a network of timm; else torchvision's default."""
    if not isinstance(network, TimmBackbone):
        return {}
    return {"image_mean": network.mean.flatten().tolist(), "image_std": network.deviation.flatten().tolist()}


def resnet_of(backbone: str, pretrained: bool) -> ResNet:
    """A ResNet without its classifier; pretrained, its norms and first stages are frozen, as torchvision does."""
    if backbone == "small":
        if pretrained:
            raise UserError("the small backbone starts from random weights; leave it out", argument="backbone_weights")
        resnet = ResNet(BasicBlock, [1, 1, 1, 1])
    else:
        resnet = resnet50(weights=None, norm_layer=FrozenBatchNorm2d if pretrained else nn.BatchNorm2d)
    resnet.fc = nn.Identity()
    for stage in (resnet.conv1, resnet.bn1, resnet.layer1) if pretrained else ():
        stage.requires_grad_(False)
    return resnet


def load_backbone(network: nn.Module, weights: str) -> None:
    """Loads weights of image classification into the `network` that a builder returns, in place.

    Args:
        network: A ResNet or a VGG.
        weights: A name of `ResNet50_Weights`, or `IMAGENET1K_FEATURES` for a VGG, to download; or the path of such a
            state dict, for images prepared alike (ResNet: torchvision's mean and deviation; VGG: 0 to 255 less mean).

    Raises:
        UserError: There is no such name or file, or its weights are not those of this network, or not finite.
    """
    known: dict[str, Any] = {"IMAGENET1K_FEATURES": VGG16_Weights.IMAGENET1K_FEATURES}  # VGG's others want other images
    if isinstance(network, ResNet):
        known = dict(ResNet50_Weights.__members__)
    if weights in known:
        try:
            state: Any = known[weights].get_state_dict(check_hash=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: another checksum
            raise UserError(
                f"{weights} cannot be downloaded ({error}); give the path of a file", argument="backbone_weights"
            ) from None
    elif Path(weights).is_file():
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except Exception:  # torch.load raises whatever the bytes lead it to
            raise UserError(f"{weights} is no file of weights that can be read", argument="backbone_weights") from None
    else:
        raise UserError(f"{weights} is neither a file nor one of {', '.join(known)}", argument="backbone_weights")
    own = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = state if isinstance(state, dict) else {}
    if wrong := [key for key, value in own.items() if getattr(given.get(key), "shape", None) != value.shape]:
        raise UserError(
            f"{weights} does not hold a {type(network).__name__} of this size: {len(wrong)} of {len(own)} weights are "
            f"missing or of another shape, {wrong[0]} for one",
            argument="backbone_weights",
        )
    if wrong := [key for key in own if not given[key].isfinite().all()]:
        raise UserError(
            f"{weights} holds numbers that are not finite, in {wrong[0]} for one; the file is damaged. Fetch it again.",
            argument="backbone_weights",
        )
    network.load_state_dict({key: given[key] for key in own}, strict=False)
