"""The detector as an ONNX model: the folded network, its anchors as constants, and optionally the suppression.

Shape letters: N boxes an image (level, anchor, row, column), K = min(300, N x C) detections.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from anchor_lightning.detectors.onnx_file import OPSET, require_onnx, serialised
from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.detectors.yolo.postprocess import MAX_DETECTIONS, NMS_IOU, all_boxes_and_scores

# As `postprocess` after the scores: triples (image, class, box) become a dense array, so that TopK has fixed shapes.
SUPPRESSION: Final = """
<ir_version: 10, opset_import: ["" : {opset}]>
suppression (float[batch, {num_boxes}, 4] all_boxes, float[batch, {num_boxes}, {num_classes}] all_scores)
    => (float[batch, {most}, 4] boxes, float[batch, {most}] scores, int64[batch, {most}] labels)
{{
    nms_most = Constant <value_ints = [{most}]> ()
    nms_iou = Constant <value_floats = [{iou:.9f}]> ()
    nms_threshold = Constant <value_floats = [{score_threshold:.9f}]> ()
    nms_by_class = Transpose <perm = [0, 2, 1]> (all_scores)
    nms_selected = NonMaxSuppression (all_boxes, nms_by_class, nms_most, nms_iou, nms_threshold)
    nms_shape = Shape (nms_by_class)
    nms_nothing = ConstantOfShape (nms_shape)
    nms_selected_scores = GatherND (nms_by_class, nms_selected)
    nms_kept = ScatterND (nms_nothing, nms_selected, nms_selected_scores)
    nms_order = Transpose <perm = [0, 2, 1]> (nms_kept)
    nms_flat = Flatten <axis = 1> (nms_order)
    scores, nms_index = TopK (nms_flat, nms_most)
    nms_num_classes = Constant <value_int = {num_classes}> ()
    nms_box = Div (nms_index, nms_num_classes)
    nms_label = Mod (nms_index, nms_num_classes)
    nms_last = Constant <value_ints = [2]> ()
    nms_box_of_image = Unsqueeze (nms_box, nms_last)
    nms_boxes = GatherND <batch_dims = 1> (all_boxes, nms_box_of_image)
    nms_zero = Constant <value_float = 0.0> ()
    nms_limit = Constant <value_floats = [{width}.0, {height}.0, {width}.0, {height}.0]> ()
    nms_not_below = Max (nms_boxes, nms_zero)
    nms_clipped = Min (nms_not_below, nms_limit)
    nms_found = Greater (scores, nms_zero)
    nms_found_of_box = Unsqueeze (nms_found, nms_last)
    nms_none = Constant <value_int = -1> ()
    boxes = Where (nms_found_of_box, nms_clipped, nms_zero)
    labels = Where (nms_found, nms_label, nms_none)
}}
"""

INPUT_TEXT: Final = (
    "images: (batch, 3, height, width) float32 RGB in [0, 1], the whole image stretched to height x width."
)
OUTPUT_TEXTS: Final = {
    False: "boxes: (batch, N, 4) left, top, right, bottom in pixels of the input, not clipped to it. "
    "scores: (batch, N, C) objectness x class probability. The boxes are ordered by level (the smallest stride first), "
    "anchor, row, column.",
    True: "boxes: (batch, K, 4) left, top, right, bottom in pixels of the input, clipped to it. scores: (batch, K), "
    "highest first. labels: (batch, K), index into class_names. Behind an image's last detection: 0, 0 and -1.",
}


def onnx_model(
    detector: YOLO,
    image_size: tuple[int, int],
    nms: bool,
    score_threshold: float,
    metadata: Mapping[str, object],
) -> bytes:
    """A detector as a serialised ONNX model of opset 18 with a dynamic batch and a fixed image size.

    Input and outputs are those of `INPUT_TEXT` and `OUTPUT_TEXTS`; the batch norm without shift is folded.

    Args:
        detector: In evaluation mode; not changed.
        image_size: Height and width of the input in pixels, multiples of 32.
        nms: Whether the suppression of `postprocess` is part of the graph.
        score_threshold: In [0, 1), for the suppression.
        metadata: What else to state in the model's metadata, as JSON where it is no string.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    onnx = require_onnx()
    names = ("all_boxes", "all_scores") if nms else ("boxes", "scores")
    model = exported(_Decoded(detector).eval(), image_size, names)
    used: dict[str, object] = {
        "image_size": list(image_size),
        "anchors": detector.shapes.wh.tolist(),
        "anchors_per_level": detector.shapes.num_per_level,
        "strides": list(detector.strides),
        "opset": OPSET,
    }
    if nms:
        _suppress(onnx, model, detector, image_size, score_threshold)
        used |= {"score_threshold": score_threshold, "nms_iou": NMS_IOU, "max_detections": MAX_DETECTIONS}
    text = f"{type(detector).__name__}. {INPUT_TEXT} {OUTPUT_TEXTS[nms]}"
    return serialised(onnx, model, text, {**used, **metadata})


class _Decoded(nn.Module):
    """Images to boxes and scores, as `postprocess` has them before its suppression."""

    log_wh: Tensor

    def __init__(self, detector: YOLO) -> None:
        super().__init__()
        # channels_last, in which the network is trained, would become transpositions.
        self.network = copy.deepcopy(detector.network).to(memory_format=torch.contiguous_format)
        self.network.fold()
        self.multi_label = detector.multi_label
        self.register_buffer("log_wh", detector.shapes.log_wh.detach().clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return all_boxes_and_scores(self.network.levels(images), self.log_wh, self.multi_label)


def exported(network: nn.Module, image_size: tuple[int, int], names: Sequence[str]) -> Any:
    """A network as a `ModelProto` of opset 18 with a dynamic batch.

    Args:
        network: In evaluation mode, from images to a tuple of tensors.
        image_size: Height and width of the images in pixels.
        names: Of the outputs.
    """
    # It says of an operator that it leaves alone; nothing is lost.
    logging.getLogger("onnxscript.optimizer._constant_folding").setLevel(logging.ERROR)
    program = torch.onnx.export(
        network,
        # Two images: the exporter takes a batch of one for a constant.
        (torch.zeros(2, 3, *image_size),),
        input_names=["images"],
        output_names=list(names),
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _suppress(onnx: Any, model: Any, detector: YOLO, image_size: tuple[int, int], score_threshold: float) -> None:
    """Adds the suppression behind the network and makes its outputs the model's, in place."""
    (height, width), num_classes = image_size, detector.network.heads[0].num_classes
    levels = zip(detector.shapes.num_per_level, detector.strides, strict=True)
    num_boxes = sum(num * (height // stride) * (width // stride) for num, stride in levels)
    text = SUPPRESSION.format(
        opset=OPSET,
        num_boxes=num_boxes,
        num_classes=num_classes,
        most=min(MAX_DETECTIONS, num_boxes * num_classes),
        iou=NMS_IOU,
        score_threshold=score_threshold,
        height=height,
        width=width,
    )
    suppression = onnx.parser.parse_model(text).graph
    model.graph.node.extend(suppression.node)
    del model.graph.output[:]
    model.graph.output.extend(suppression.output)
