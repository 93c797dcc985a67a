"""How `predict` runs a network: by torch, in float32 or bf16, or by onnxruntime."""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from torch import nn

from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.detectors.yolo.onnx_inference import ONNXRuntimeNetwork, has_onnxruntime
from anchor_lightning.errors import UserError, check_choice
from anchor_lightning.structures import DetectionBatch, Detections
from anchor_lightning.task import DetectionTask
from anchor_lightning.training.processor import has_bf16

Precision = Literal["auto", "32-true", "bf16-mixed"]
Engine = Literal["auto", "torch", "onnxruntime"]
MANY_IMAGES: Final = 200  # from which on the export for onnxruntime, of 5 to 8 s, pays


class Inference:
    """Detects, with the engine and in the precision that suit the machine.

    Args:
        task: In evaluation mode, on its device; onnxruntime takes the place of its network.
        image_size: Height and width of the network input in pixels.
        num_images: How many there are to come.
        precision: `auto` is bf16 for YOLO detectors on a CPU that has instructions for it.
        engine: `auto` is onnxruntime where it can be imported, for `MANY_IMAGES` of a YOLO detector on a CPU without
            such instructions, unless a precision is asked for.

    Attributes:
        in_bf16: Whether the network runs in bf16.
        in_onnxruntime: Whether it runs in onnxruntime, in float32.

    Raises:
        UserError: onnxruntime is asked for and cannot run the detector, is not installed, or cannot be imported.
    """

    def __init__(
        self,
        task: DetectionTask,
        image_size: tuple[int, int],
        num_images: int,
        precision: Precision = "auto",
        engine: Engine = "auto",
    ) -> None:
        check_choice(precision, Precision, "precision")
        check_choice(engine, Engine, "engine")
        self.task = task
        is_yolo_on_cpu = task.device.type == "cpu" and isinstance(task.detector, YOLO)
        if engine == "onnxruntime" and (not is_yolo_on_cpu or precision == "bf16-mixed"):
            raise UserError("it runs YOLO detectors on a CPU in float32; take torch", "engine")
        is_free = is_yolo_on_cpu and precision == "auto"
        self.in_bf16 = precision == "bf16-mixed" or (is_free and engine != "onnxruntime" and has_bf16())
        pays = is_free and not self.in_bf16 and num_images >= MANY_IMAGES
        self.in_onnxruntime = engine == "onnxruntime" or (engine == "auto" and pays and has_onnxruntime())
        detector: Any = task.detector
        if self.in_onnxruntime:
            detector.network = ONNXRuntimeNetwork(detector, image_size)
        if self.in_bf16 and is_yolo_on_cpu:
            cast_kernels(detector.network)

    @property
    def words(self) -> str:
        """What to say of it beside the size of the network input."""
        return ", in bf16" * self.in_bf16 + ", in onnxruntime" * self.in_onnxruntime

    @torch.inference_mode()
    def detect(self, batch: DetectionBatch) -> list[Detections]:
        """The detections of images in [0, 255], in pixels of the stored images, on the CPU."""
        batch = batch.to(self.task.device)
        batch.images = batch.images.float().div_(255)
        with torch.autocast(self.task.device.type, torch.bfloat16, enabled=self.in_bf16):
            detections = self.task.detect(batch)[0]
        return [Detections(**{name: t.cpu() for name, t in vars(d).items()}) for d in detections]


def cast_kernels(network: nn.Module) -> None:
    """Converts the kernels of a YOLO's convolutions to bf16 in place, once: autocast would do it for each batch.

    The outputs under autocast are the same to the bit. The first kernel stays: the network takes images in its type.
    """
    first = next(network.parameters())
    for module in network.modules():
        if type(module) is nn.Conv2d and module.weight is not first:  # subclasses may compute with their kernels
            module.to(torch.bfloat16)
    network.to(memory_format=torch.channels_last)
