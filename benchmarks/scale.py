"""Time and memory of a training step against image size, batch and processes; the loader's rate; bytes between GPUs.

    python benchmarks/scale.py [--steps 5] [--cases 1.0:416:4:1 ...]

A case is width:size:global batch:processes; `--cases` without one leaves the steps out. Each runs in processes of its
own, one thread each, joined by gloo and DistributedDataParallel where there are several: forward, loss with soft
assignment and clustering, backward, SGD. Printed are the median over the steps of the slowest process's wall time, the
same of processor time, and the highest resident memory of a process; what a process has before its first network is
said below. Where others use the machine only processor time means something: wall time waits for them.

Then the images a second that one core loads and augments (as `data_loading.py` measures it), and what a ring all-reduce
sends and takes for numbers of GPUs: arithmetic, from `--gpu_rate` (images/s of one GPU) and `--gbytes` (GB/s that a GPU
sends), which are assumptions unless you have measured them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from data_loading import IMAGE_SIZE, images_per_second, make_records
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anchor_lightning import DetectionTask
from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.data.module import DetectionDataset, SampleKey, collate
from anchor_lightning.data.transforms import distort_colour
from anchor_lightning.structures import DetectionBatch, StepOptions

CLASSES, BOXES = 20, 6
CASES = [
    *("1.0:320:1:1", "1.0:416:1:1", "1.0:544:1:1", "1.0:416:2:1", "1.0:416:4:1", "1.0:416:2:2", "1.0:416:4:2"),
    *("0.25:416:8:1", "0.25:416:16:1", "0.25:416:32:1", "0.25:416:16:2", "0.25:416:32:2"),
]
GPUS = (8, 64, 512)
MIB, GB = 2**20, 1e9


class Case(NamedTuple):
    """One row: channel multiplier, side of the images in pixels, images of the global batch, processes."""

    width: float
    size: int
    batch: int
    processes: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """From `width:size:batch:processes`."""
        width, size, batch, processes = text.split(":")
        return cls(float(width), int(size), int(batch), int(processes))


class Loss(nn.Module):
    """The loss of a batch as one forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, width: float, world_size: int) -> None:
        super().__init__()
        task = DetectionTask(CLASSES, anchors=AnchorOptions(init="yolov2-voc"), width=width)
        self.detector, self.shapes, self.world_size = task.detector, task.shapes, world_size

    def forward(self, batch: DetectionBatch) -> Tensor:
        """Sum of all terms, half-way through the warm-up."""
        boxes = torch.tensor(float(self.world_size * len(batch) * BOXES))
        step = StepOptions(torch.tensor(1.0), "l2", 0.5, boxes, self.world_size, torch.tensor(1.0))
        return torch.stack(list(self.detector.training_losses(batch, self.shapes, step).values())).sum()


def make_batch(images: int, size: int) -> DetectionBatch:
    """Noise with six boxes an image, in a bucket of 32."""
    mask = torch.zeros(images, 32, dtype=torch.bool)
    mask[:, :BOXES] = True
    wh = size / 16 * 8 ** torch.rand(images, 32, 2)
    corner = torch.rand(images, 32, 2) * (size - wh)
    boxes = torch.cat([corner, corner + wh], 2) * mask[..., None]
    labels = torch.where(mask, torch.randint(0, CLASSES, mask.shape), -1)
    ids, sizes, colour = torch.arange(1, images + 1), torch.full((images, 2), float(size)), torch.zeros(images, 3)
    return DetectionBatch(torch.rand(images, 3, size, size), boxes, labels, mask, ids, sizes, colour)


def run_case(rank: int, case: Case, steps: int, folder: str) -> None:
    """One process of a case; writes RANK.json."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = (Path(folder) / "store").as_uri()
    dist.init_process_group("gloo", store, world_size=case.processes, rank=rank)
    loss: nn.Module = Loss(case.width, case.processes).to(memory_format=torch.channels_last)
    parameters = list(loss.parameters())
    if case.processes > 1:
        loss = DistributedDataParallel(loss)
    # Tiny: the weights must stay finite on noise.
    optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=5e-4)
    batch = make_batch(case.batch // case.processes, case.size)
    wall, processor = [], []
    for step in range(steps + 1):
        dist.barrier()
        start, used = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
        if step:  # the first one allocates
            wall.append(time.perf_counter() - start)
            processor.append(time.process_time() - used)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    (Path(folder) / f"{rank}.json").write_text(json.dumps([wall, processor, memory]))
    dist.destroy_process_group()


def measure(case: Case, steps: int) -> tuple[float, float, float]:
    """Seconds a step by the clock and of the processor, and bytes of memory: the worst process's."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_case, (case, steps, folder), nprocs=case.processes)
        ranks = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(case.processes)]
    wall, processor = (
        statistics.median(max(times) for times in zip(*(rank[clock] for rank in ranks), strict=True))
        for clock in (0, 1)
    )
    return wall, processor, max(rank[2] for rank in ranks)


def loader_rate(images: int = 32, rounds: int = 5, seconds: float = 1.0) -> float:
    """Median images a second of one core: read, decode, warp, collate, colour."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        dataset = DetectionDataset(make_records(Path(folder), images), augment=True, training=True)

        def load(step: int) -> Tensor:
            made = collate([dataset[SampleKey(i, step, IMAGE_SIZE)] for i in range(images)])
            return distort_colour(made.images.to(torch.float32).div_(255), made.colour)

        return statistics.median(images_per_second(load, images, images, seconds) for _ in range(rounds))


def main() -> None:
    """Prints the three tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="measured steps a case, after one that is not")
    parser.add_argument("--cases", nargs="*", type=Case.parse, default=[Case.parse(case) for case in CASES])
    parser.add_argument("--batch", type=int, default=8, help="images a GPU and step, for the arithmetic")
    parser.add_argument("--gpu_rate", type=float, default=200.0, help="images/s that one GPU trains on")
    parser.add_argument("--gbytes", type=float, nargs="+", default=[1.25, 12.5, 100.0], help="GB/s a GPU sends")
    options = parser.parse_args()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("| width | size | global batch | processes | s a step | processor s | ms an image and core | MiB a process |")
    print("|---|---|---|---|---|---|---|---|")
    for case in options.cases:
        wall, processor, memory = measure(case, options.steps)
        share = 1e3 * processor / (case.batch / case.processes)
        print(f"| {case.width:g} | {case.size} | {case.batch} | {case.processes} ", end="")
        print(f"| {wall:.2f} | {processor:.2f} | {share:.0f} | {memory / MIB:.0f} |", flush=True)

    print(f"\nA process that has only imported everything: {base / MIB:.0f} MiB")

    rate = loader_rate()
    print(f"\nLoader: {rate:.0f} images/s of one core (median of 5), input {IMAGE_SIZE[0]} x {IMAGE_SIZE[1]}\n")

    count = sum(p.numel() for p in Loss(1.0, 1).parameters())
    step = options.batch / options.gpu_rate
    print(f"Parameters at width 1: {count:,}; gradients {4 * count / MIB:.1f} MiB a step in float32\n")
    print("| GPUs | global batch | MB sent a GPU and step | loader cores |", end="")
    print("".join(f" ms at {speed:g} GB/s (share of {1e3 * step:.0f} ms) |" for speed in options.gbytes))
    print("|" + "---|" * (4 + len(options.gbytes)))
    for gpus in GPUS:
        sent = 2 * (gpus - 1) / gpus * 4 * count
        cores = gpus * options.gpu_rate / rate
        print(f"| {gpus} | {gpus * options.batch} | {sent / 1e6:.0f} | {cores:.1f} |", end="")
        print("".join(f" {1e3 * sent / (s * GB):.1f} ({sent / (s * GB) / step:.0%}) |" for s in options.gbytes))


if __name__ == "__main__":
    main()
