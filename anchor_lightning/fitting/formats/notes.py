"""What the user of another tool must heed with the shapes that it is given, a sentence each."""

from __future__ import annotations

from typing import Final

from anchor_lightning.fitting.formats.anchor_set import RESIZED, AnchorSet, Resized
from anchor_lightning.fitting.formats.targets import Target

_TOOLS_RESIZE: Final[dict[Target, tuple[Resized, str, str]]] = {
    "darknet": (
        "stretch",
        "stretches images (AlexeyAB's and OpenCV do; the original C code letterboxes them)",
        ", or set letter_box=1 in [net] and detect with -letter_box",
    ),
    "ultralytics": ("letterbox", "keeps the aspect of images", ""),
    "mmdet": ("letterbox", "keeps the aspect of images", ", or set keep_ratio=False in its pipelines"),
    "mmdet-anchor": ("letterbox", "keeps the aspect of images", ", or set keep_ratio=False in its pipelines"),
    "detectron2": ("letterbox", "keeps the aspect of images", ""),
    "retinanet": ("letterbox", "keeps the aspect of images", ""),
}
"""What a tool does with images, in a word and in words, and how to make it do the other."""
DARKNET_RESIZES: Final = (
    "The original C darknet letterboxes images, where AlexeyAB's darknet, OpenCV and this project stretch them: unless "
    "all images have the aspect of the network input, its boxes differ."
)
_ULTRALYTICS: Final = (
    "For the YOLOv5 repository, YOLOv3 and YOLOv7: the models of the package ultralytics (YOLOv8 and later) are "
    "anchor-free, and it ignores `anchors:`."
)
_TORCHVISION_LEVELS: Final = {  # number of feature maps -> the detectors that have so many
    5: "FasterRCNN or RetinaNet on the FPN of a ResNet",
    3: "FasterRCNN on the FPN of a MobileNetV3",
    1: "FasterRCNN on a backbone without FPN",
}
_TORCHVISION_CLASSES: Final = (
    "Give the generator to the class, FasterRCNN(backbone, ..., rpn_anchor_generator=anchor_generator) or "
    "RetinaNet(backbone, ..., anchor_generator=anchor_generator): the builders of *_v2 and of MobileNet models make "
    "their own and take no other."
)
_GRID_SIZE: Final[dict[Target, str]] = {
    "retinanet": "--image-min-side {short} --image-max-side {long}",
    "detectron2": "INPUT.MIN_SIZE_TRAIN ({short},), MAX_SIZE_TRAIN {long}, and the same of TEST",
    "mmdet-anchor": "scale=({width}, {height}) of Resize in its pipelines",
}
_NATIVE: Final = "these shapes were fitted to images at native scale, and suit only images that keep it."


def export_notes(anchors: AnchorSet, to: Target) -> list[str]:
    """Hints for the user of another tool on these shapes; the text's comments hold them, too."""
    if to == "torchvision":
        return [_torchvision_levels(anchors.levels), _TORCHVISION_CLASSES, _torchvision_resize(anchors)]
    notes = [_ULTRALYTICS] if to == "ultralytics" else []
    if to in _GRID_SIZE and anchors.image_size is not None:
        (height, width), (short, long) = anchors.image_size, sorted(anchors.image_size)
        option = _GRID_SIZE[to].format(height=height, width=width, short=short, long=long)
        notes.append(f"{to} resizes the shorter side to 800 pixels unless told otherwise: for these shapes {option}.")
    if to not in _TOOLS_RESIZE or anchors.resize is None:
        return notes
    theirs, does, otherwise = _TOOLS_RESIZE[to]
    if anchors.resize == theirs:
        return [*notes, DARKNET_RESIZES] if to == "darknet" else notes
    if anchors.resize == "native":
        return [*notes, f"{to} {does}; {_NATIVE}"]
    fitted = RESIZED[anchors.resize]
    return [
        *notes,
        f"{to} {does}; these shapes were fitted to {fitted} ones. Unless all images have the aspect of the network "
        f"input, fit again with resize {theirs}{otherwise}.",
    ]


def _torchvision_levels(levels: int) -> str:
    here = f"No detector of torchvision has {levels} feature maps"
    if levels in _TORCHVISION_LEVELS:
        here = f"A list for each feature map: {levels} of them suit {_TORCHVISION_LEVELS[levels]}"
    others = [f"levels {count} for {who}" for count, who in _TORCHVISION_LEVELS.items() if count != levels]
    return (
        f"{here}. Fit again with {', or '.join(others)}. SSD takes no shapes but those of its own DefaultBoxGenerator."
    )


def _torchvision_resize(anchors: AnchorSet) -> str:
    does = "torchvision's detectors resize images by themselves, aspect kept, the shorter side to 800 pixels"
    if anchors.resize == "native":
        return f"{does}; {_NATIVE}"
    height, width = anchors.image_size or ("HEIGHT", "WIDTH")
    short, long = sorted(anchors.image_size) if anchors.image_size else ("SHORTER", "LONGER")
    ways = {
        "stretch": f"fixed_size=({width}, {height}), which stretches images",
        "letterbox": f"min_size={short}, max_size={long}, which keeps their aspect",
    }
    asked = ways[anchors.resize] if anchors.resize else f"{ways['stretch']}, or {ways['letterbox']}"
    return f"{does}: for these shapes give the detector {asked}."
