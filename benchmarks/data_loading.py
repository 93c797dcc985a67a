"""Images per second and core from file to network, against how it was done before and what other libraries do.

    python benchmarks/data_loading.py [--images 64] [--rounds 20]

One process, one thread. The images are 500 x 375 JPEGs of about 85 kB made of smooth noise, six boxes each; the network
input is 416 x 416. Ratios are of times, to the path from file to network; the former item has its own to the item.
torchvision, albumentations and lightnet take part where they are installed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import simplejpeg
import torch
from data_loading_peers import installed
from PIL import Image
from turns import take_turns

from anchor_lightning.data.dataset import DetectionDataset, ImageRecord, Sample, collate
from anchor_lightning.data.network_input import BatchMemory, network_input
from anchor_lightning.data.sampler import SampleKey
from anchor_lightning.data.transforms import GeometryParams, distort_colour
from anchor_lightning.structures import DetectionBatch, GroundTruth

HEIGHT, WIDTH = 375, 500
IMAGE_SIZE = (416, 416)
NUM_BOXES = 6
ITEM, FORMER_ITEM = "training item (read, decode, crop, boxes)", "training item with an affine warp"
PATH, FORMER_PATH = "file to network", "file to network, as it was"


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


def affine_warp(image: np.ndarray, params: GeometryParams, image_size: tuple[int, int]) -> np.ndarray:
    """What `resize_window` did before it cropped and resized."""
    (source_h, source_w), (height, width) = image.shape[:2], image_size
    scale_x, scale_y = params.width * source_w / width, params.height * source_h / height
    offset_x, offset_y = params.left * source_w, params.top * source_h
    if params.flip:
        scale_x, offset_x = -scale_x, offset_x + params.width * source_w
    to_source = np.array([[scale_x, 0, scale_x / 2 + offset_x - 0.5], [0, scale_y, scale_y / 2 + offset_y - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, to_source, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def former_input(batch: DetectionBatch) -> torch.Tensor:
    """What `network_input` was: each step over the whole batch, and the layout of the network in the end."""
    floats = batch.images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    distorted = torch.empty_like(floats)
    for images, colour, result in zip(floats.split(1), batch.colour.split(1), distorted.split(1), strict=True):
        distort_colour(images, colour, out=result)
    return distorted.contiguous(memory_format=torch.channels_last)


def make_steps(records: list[ImageRecord]) -> dict[str, Callable[[], object]]:
    """What takes turns, by name; each step goes through all images."""
    data = [record.path.read_bytes() for record in records]
    dataset = DetectionDataset(records, augment=True, training=True)
    memory, epochs = BatchMemory(), itertools.count()

    def load() -> list[Sample]:
        epoch = next(epochs)
        return [dataset[SampleKey(i, epoch, IMAGE_SIZE)] for i in range(len(records))]

    def former_load() -> list[Sample]:
        with mock.patch("anchor_lightning.data.dataset.resize_window", affine_warp):
            return load()

    def work_for_another_process() -> None:
        for tensor in vars(collate(load())).values():
            tensor.share_memory_()

    def whole_path() -> torch.Tensor:
        batch = collate(load())
        return network_input(batch.images, batch.colour, memory)

    batch = collate(load())
    files, boxes = zip(*((record.path, record.ground_truth.boxes_xyxy) for record in records), strict=True)
    return {
        "decoding alone": lambda: [simplejpeg.decode_jpeg(content) for content in data],
        ITEM: load,
        FORMER_ITEM: former_load,
        "item and batch in a worker's shared memory": work_for_another_process,
        "floats and colours alone": lambda: network_input(batch.images, batch.colour, memory),
        PATH: whole_path,
        FORMER_PATH: lambda: former_input(collate(former_load())),
        **installed(files, boxes, IMAGE_SIZE[0]),
    }


def main() -> None:
    """Prints a line for each step, as a rate and as a ratio of times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64, help="different images, which are also one batch")
    parser.add_argument("--rounds", type=int, default=20, help="times that all images are gone through")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(Path(folder), options.images)
        size = sum(record.path.stat().st_size for record in records) / len(records) / 1000
        print(f"{options.images} JPEGs of {WIDTH} x {HEIGHT}, {size:.0f} kB on average; input {IMAGE_SIZE}; one core")
        print("Rate of the fastest round and of the median; time as a ratio to ours in the same round, with quartiles.")
        seconds = take_turns(make_steps(records), options.rounds, clock=time.process_time)
    for name, values in seconds.items():
        ours = seconds[ITEM if name == FORMER_ITEM else PATH]
        low, middle, high = statistics.quantiles((b / a for a, b in zip(ours, values, strict=True)), n=4)
        rates = f"{options.images / min(values):6.0f} {options.images / statistics.median(values):6.0f} images/s"
        print(f"{name:44s} {rates}   {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
