"""`predict` of a folder from end to end: reading and drawing in threads, and one after the other; in bf16 and float32.

    python benchmarks/predict.py [--images 32] [--width 0.25] [--rounds 3]

The images are made, JPEG files of two megapixels; the detector is not trained, so that there are boxes to draw.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from lightning.pytorch import Trainer
from turns import ratio_line, take_turns

from anchor_lightning import DetectionTask
from anchor_lightning.commands.inference import Precision
from anchor_lightning.commands.predict import predict
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.training.processor import has_bf16


def make_images(folder: Path, num: int) -> None:
    """JPEG files of 1,600 x 1,200 pixels with edges and texture."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for index in range(num):
        coarse = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.jpg"), cv2.resize(coarse, (1600, 1200), interpolation=cv2.INTER_CUBIC))


def make_checkpoint(path: Path, width: float) -> None:
    """Of an untrained detector."""
    task = DetectionTask(num_classes=2, class_names=["cat", "dog"], detector=partial(YOLOv2, width=width))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)


def one_after_the_other(function: Callable[[Any], Any], items: Iterable[Any], *_: int) -> Iterator[Any]:
    """In the place of `ahead`."""
    return map(function, items)


def main() -> None:
    """Prints the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in {"images": 32, "width": 0.25, "rounds": 3, "threads": torch.get_num_threads()}.items():
        parser.add_argument(f"--{option}", type=type(default), default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as made:
        folder, checkpoint = Path(made), Path(made, "detector.ckpt")
        make_images(folder / "images", options.images)
        with contextlib.redirect_stderr(io.StringIO()):
            make_checkpoint(checkpoint, options.width)

        def run(precision: Precision, threads: bool = True) -> None:
            with contextlib.ExitStack() as stack:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
                for module in ("predict", "prediction_input") if not threads else ():
                    stack.enter_context(mock.patch(f"anchor_lightning.commands.{module}.ahead", one_after_the_other))
                source, output = str(folder / "images"), str(folder / "out")
                predict(str(checkpoint), source, output, 0.1, image_size=416, precision=precision)

        steps = {"threads": lambda: run("auto"), "one after the other": lambda: run("auto", threads=False)}
        if has_bf16():
            steps["float32"] = lambda: run("32-true")
        seconds = take_turns(steps, options.rounds, warm_up=1)
    what, ours = f"predict of {options.images} images, width {options.width}: ", seconds.pop("threads")
    for other, theirs in seconds.items():
        print(ratio_line(what + ("bf16" if has_bf16() else "float32") + ", in threads", ours, other, theirs))


if __name__ == "__main__":
    main()
