"""Inference of YOLOv2's network on a CPU at 416 pixels: as `predict` runs it, by torch in float32, and by others.

    python benchmarks/inference.py [--width 1.0] [--batch 1 8] [--rounds 5]

`predict` runs it in bf16 where the processor has instructions for it; in onnxruntime with `--engine onnxruntime`, and
for many images on other processors. Of the peers onnxruntime and OpenCV run the exported model, lightnet its own
YOLOv2; each where it is installed, in turn with ours.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from turns import ratio_line, take_turns

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.commands.inference import cast_kernels
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.detectors.yolo.onnx_export import onnx_model
from anchor_lightning.detectors.yolo.onnx_inference import ONNXRuntimeNetwork, has_onnxruntime
from anchor_lightning.training.processor import has_bf16

SIDE, CLASSES = 416, 20
PEERS = ("onnxruntime", "OpenCV", "lightnet")


def make_peers(model: bytes, images: Tensor, threads: int) -> dict[str, Callable[[], object]]:
    """What runs the exported model, or a network of its own, on the images; says what is not installed."""
    pixels = images.numpy()
    steps: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("onnxruntime"):
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        steps["onnxruntime"] = lambda: session.run(None, {"images": pixels})
    cv2.setNumThreads(threads)
    try:
        network = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
        network.setInput(pixels)
        network.forward()
    except cv2.error as error:
        print(f"OpenCV {cv2.__version__} does not run the model: {' '.join(error.err.split())}")
    else:
        steps["OpenCV"] = lambda: (network.setInput(pixels), network.forward())
    if importlib.util.find_spec("lightnet"):
        theirs = importlib.import_module("lightnet.models").YoloV2(CLASSES).eval()
        steps["lightnet"] = lambda: run(theirs, images, False)
    for name in ("onnxruntime", "lightnet"):
        if name not in steps:
            print(f"{name} is not installed")
    return steps


@torch.inference_mode()
def run(network: nn.Module, images: Tensor, bf16: bool) -> object:
    """One forward pass."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return network(images)


def main() -> None:
    """Prints how long `predict`'s network takes against each peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in {"rounds": 5, "width": 1.0, "threads": 1}.items():
        parser.add_argument(f"--{option}", type=type(default), default=default)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector = YOLOv2(CLASSES, AnchorOptions(init="yolov2-voc"), [SIDE, SIDE], width=options.width).eval()
    model = onnx_model(detector, (SIDE, SIDE), False, 0.005, {}) if has_onnxruntime() else b""
    ours: dict[str, Callable[[Tensor], object]] = {}
    if has_bf16():
        cast = copy.deepcopy(detector.network)
        cast_kernels(cast)
        ours["bf16"] = lambda images: run(cast, images, True)
    if has_onnxruntime():
        ours["engine onnxruntime"] = ONNXRuntimeNetwork(detector, (SIDE, SIDE)).levels
    for batch in options.batch:
        images = torch.rand(batch, 3, SIDE, SIDE)
        peers = {"torch in float32": lambda images=images: run(detector.network, images, False)}
        peers |= make_peers(model, images, options.threads)
        steps = {name: lambda step=step, images=images: step(images) for name, step in ours.items()}
        seconds = take_turns(steps | peers, options.rounds, warm_up=1)
        for name in ours:
            for peer in peers:
                what = f"inference, width {options.width}, batch {batch}: {name}"
                print(ratio_line(what, seconds[name], peer, seconds[peer]))


if __name__ == "__main__":
    main()
