"""Images per second and core of the training pipeline, against decoding alone.

    python benchmarks/data_loading.py [--images 64] [--rounds 20]

One process, one thread. The images are 500 x 375 JPEGs of about 85 kB made of smooth noise, six boxes each; the network
input is 416 x 416.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from turns import take_turns

from anchor_lightning.data.dataset import DetectionDataset, ImageRecord, Sample, collate
from anchor_lightning.data.sampler import SampleKey
from anchor_lightning.data.transforms import distort_colour
from anchor_lightning.structures import DetectionBatch, GroundTruth

HEIGHT, WIDTH = 375, 500
IMAGE_SIZE = (416, 416)
NUM_BOXES = 6


def make_records(folder: Path, count: int) -> list[ImageRecord]:
    """Writes `count` images with random boxes."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(count):
        noise = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32), (0, 0), 1.3)
        coarse = rng.normal(0, 50, (8, 10, 3)).astype(np.float32)
        shades = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        pixels = (noise / noise.std() * 47 + shades + 128).clip(0, 255).astype(np.uint8)
        path = folder / f"{i}.jpg"
        Image.fromarray(pixels).save(path, quality=85)
        corners = (np.sort(rng.random((NUM_BOXES, 2, 2)), axis=1) * (WIDTH, HEIGHT)).reshape(NUM_BOXES, 4)
        labels, ignore = np.zeros(NUM_BOXES, dtype=np.int64), np.zeros(NUM_BOXES, dtype=bool)
        ground_truth = GroundTruth(i + 1, corners, labels, ignore, np.ones(NUM_BOXES))
        records.append(ImageRecord(path, path.stem, HEIGHT, WIDTH, ground_truth))
    return records


def main() -> None:
    """Prints one line a measurement, as a rate and as a ratio to decoding alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64, help="different images, which are also one batch")
    parser.add_argument("--rounds", type=int, default=20, help="times that all images are gone through")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(Path(folder), options.images)
        data = [record.path.read_bytes() for record in records]
        dataset = DetectionDataset(records, augment=True, training=True)
        epochs = itertools.count()

        def load() -> list[Sample]:
            epoch = next(epochs)
            return [dataset[SampleKey(i, epoch, IMAGE_SIZE)] for i in range(options.images)]

        def to_float(batch: DetectionBatch) -> torch.Tensor:
            return batch.images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

        batch = collate(load())
        floats = to_float(batch)

        def load_and_colour() -> torch.Tensor:
            made = collate(load())
            return distort_colour(to_float(made), made.colour)

        steps: dict[str, Callable[[], object]] = {
            "decoding alone": lambda: [simplejpeg.decode_jpeg(content) for content in data],
            "training item (read, decode, warp, boxes)": load,
            "colour step alone, on this core": lambda: distort_colour(floats, batch.colour),
            "item, collate, to float and colour": load_and_colour,
        }
        size = sum(map(len, data)) / len(data) / 1000
        print(f"{options.images} JPEGs of {WIDTH} x {HEIGHT}, {size:.0f} kB on average; input {IMAGE_SIZE}; one core")
        # The best round counts: other work on the machine only ever slows one down.
        seconds = take_turns(steps, options.rounds, clock=time.process_time)
        for name, values in seconds.items():
            ratio = min(seconds["decoding alone"]) / min(values)
            print(f"{name:45s} {options.images / min(values):7.0f} images/s   {ratio:.2f} x decoding alone")


if __name__ == "__main__":
    main()
