"""torchvision's detectors as ONNX models, with the learned anchors as constants and the suppression inside."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from anchor_lightning.detectors.onnx_file import OPSET, require_onnx, serialised
from anchor_lightning.detectors.torchvision.base import TorchvisionDetector
from anchor_lightning.detectors.torchvision.convert import freeze_anchors

TEXT: Final = (
    "images: (1, 3, height, width) float32 RGB in [0, 1], one image, stretched to height x width. "
    "boxes: (1, K, 4) left, top, right, bottom in pixels of the input, clipped to it. scores: (1, K), labels: (1, K), "
    "index into class_names. K is the number of detections, which may be 0."
)


def onnx_model(
    detector: TorchvisionDetector, image_size: tuple[int, int], score_threshold: float, metadata: Mapping[str, object]
) -> bytes:
    """A detector as a serialised ONNX model of opset 18 for one image of a fixed size; see `TEXT`.

    Args:
        detector: In evaluation mode; not changed.
        image_size: Height and width of the input in pixels, multiples of 32.
        score_threshold: In [0, 1); detections that score up to this are dropped.
        metadata: What else to state in the model's metadata, as JSON where it is no string.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    onnx = require_onnx()
    # channels_last, in which the network is trained, would become transpositions.
    twin = copy.deepcopy(detector).to(memory_format=torch.contiguous_format)
    freeze_anchors(twin.model)
    second_stage: Any = getattr(twin.model, "roi_heads", twin.model)
    second_stage.score_thresh = score_threshold
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The tracer: torch.export does not take detectors whose number of boxes depends on the image. It warns of every
        # number that it takes for a constant, such as the size of the image, which is one here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _OneImage(twin).eval(),
            (torch.zeros(1, 3, *image_size),),
            file,  # type: ignore[arg-type]
            input_names=["images"],
            output_names=["boxes", "scores", "labels"],
            dynamic_axes={name: {1: "detections"} for name in ("boxes", "scores", "labels")},
            opset_version=OPSET,
            dynamo=False,
        )
    used = {
        "image_size": list(image_size),
        "anchors": detector.shapes.wh.detach().tolist(),
        "anchors_per_level": detector.shapes.num_per_level,
        "opset": OPSET,
        "score_threshold": score_threshold,
        "nms_iou": second_stage.nms_thresh,
        "max_detections": second_stage.detections_per_img,
    }
    text = f"{type(detector).__name__} of torchvision. {TEXT}"
    return serialised(onnx, onnx.load_from_string(file.getvalue()), text, {**used, **metadata})


class _OneImage(nn.Module):
    """One image to its detections, labels from 0."""

    def __init__(self, detector: TorchvisionDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (found,) = self.detector(images)
        return found["boxes"][None], found["scores"][None], found["labels"][None] - self.detector.first_label
