"""Images per second and core of the training pipeline, against decoding alone.

    python benchmarks/data_loading.py [--images 64] [--seconds 5]

One process, one thread. The images are 500 x 375 JPEGs of about 85 kB made of smooth noise, six boxes each; the network
input is 416 x 416.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image

from anchor_lightning.data.dataset import DetectionDataset, ImageRecord, collate
from anchor_lightning.data.sampler import SampleKey
from anchor_lightning.data.transforms import distort_colour
from anchor_lightning.structures import GroundTruth

HEIGHT, WIDTH = 375, 500
IMAGE_SIZE = (416, 416)
NUM_BOXES, ROUNDS = 6, 5


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


def images_per_second(work: Callable[[int], object], images_a_call: int, count: int, seconds: float) -> float:
    """Calls `work` with a running number for about `seconds` and returns its rate."""
    work(0)
    calls, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        work(calls % count)
        calls += 1
    return calls * images_a_call / (time.process_time() - start)


def main() -> None:
    """Prints one line a measurement, as a rate and as a ratio to decoding alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64, help="different images, which are also one batch")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(Path(folder), options.images)
        data = [record.path.read_bytes() for record in records]
        size = sum(len(d) for d in data) / len(data) / 1000
        dataset = DetectionDataset(records, augment=True, training=True)
        batch = collate([dataset[SampleKey(i, 0, IMAGE_SIZE)] for i in range(options.images)])
        floats = batch.images.float().div_(255).contiguous()

        def loaded_and_coloured(step: int) -> torch.Tensor:
            made = collate([dataset[SampleKey(i, step, IMAGE_SIZE)] for i in range(options.images)])
            images = made.images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
            return distort_colour(images, made.colour)

        works: dict[str, tuple[Callable[[int], object], int]] = {
            "decoding alone": (lambda i: simplejpeg.decode_jpeg(data[i]), 1),
            "training item (read, decode, warp, boxes)": (lambda i: dataset[SampleKey(i, i, IMAGE_SIZE)], 1),
            "colour step alone, on this core": (lambda _: distort_colour(floats, batch.colour), options.images),
            "item, collate, to float and colour": (loaded_and_coloured, options.images),
        }
        print(f"{options.images} JPEGs of {WIDTH} x {HEIGHT}, {size:.0f} kB on average; input {IMAGE_SIZE}; one core")
        # Measurements take turns and the best counts: other work on the machine only ever slows one down.
        rates = dict.fromkeys(works, 0.0)
        for _ in range(ROUNDS):
            for name, (work, images) in works.items():
                rate = images_per_second(work, images, options.images, options.seconds / ROUNDS)
                rates[name] = max(rates[name], rate)
        for name, rate in rates.items():
            print(f"{name:45s} {rate:7.0f} images/s   {rate / rates['decoding alone']:.2f} x decoding alone")


if __name__ == "__main__":
    main()
