"""A YOLO's network in onnxruntime, which takes about 0.7 of torch's time in float32 on a CPU."""

from __future__ import annotations

import copy
import importlib
from typing import Any, Final

import torch
from torch import Tensor, nn

from anchor_lightning.detectors.onnx_file import require_onnx
from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.detectors.yolo.network import YOLONetwork
from anchor_lightning.detectors.yolo.onnx_export import exported
from anchor_lightning.errors import UserError
from anchor_lightning.structures import Predictions

PACKAGE: Final = "onnxruntime"


def has_onnxruntime() -> bool:
    """Whether onnxruntime and what the export needs can be imported."""
    try:
        require_onnx(PACKAGE)
    except UserError:
        return False
    return True


class ONNXRuntimeNetwork(nn.Module):
    """In the place of a detector's network, for inference on a CPU: the same raw predictions, up to rounding.

    Args:
        detector: In evaluation mode, on a CPU; not changed.
        image_size: Height and width of the images in pixels, multiples of 32; only these are taken.

    Raises:
        UserError: onnx, onnxscript or onnxruntime is not installed, or cannot be imported.
    """

    def __init__(self, detector: YOLO, image_size: tuple[int, int]) -> None:
        super().__init__()
        require_onnx(PACKAGE)
        onnxruntime: Any = importlib.import_module(PACKAGE)
        self.strides = detector.strides
        names = [f"raw_{stride}" for stride in self.strides]
        model = exported(_Raw(detector.network).eval(), image_size, names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def levels(self, images: Tensor) -> list[Predictions]:
        """See `YOLONetwork.levels`."""
        raw = self._session.run(None, {"images": images.contiguous().numpy()})
        return [Predictions(torch.from_numpy(level), s) for level, s in zip(raw, self.strides, strict=True)]


class _Raw(nn.Module):
    """Images to the raw predictions of each level, folded."""

    def __init__(self, network: YOLONetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        self.network.fold()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(level.raw for level in self.network.levels(images))
