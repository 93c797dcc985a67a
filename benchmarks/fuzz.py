"""Mutated annotations, images and weights through the readers: anything but a clear ValueError is a finding.

    python -m benchmarks.fuzz --minutes 10 --seed 0

A finding is an error of another kind, a ValueError that Python or a library raised (the command line would show its
traceback) or that does not name the file, an input that takes more than ten seconds, and boxes that break what the
readers promise: finite, inside the image, left < right, top < bottom, labels in range. Exits non-zero if there is one.
"""

from __future__ import annotations

import argparse
import io
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from anchor_lightning.commands.reporting import raised_here
from anchor_lightning.data import BrainwashDataModule, COCODataModule, VOCDataModule, YOLODataModule
from anchor_lightning.data.images import image_size_of, read_image
from anchor_lightning.data.module import DetectionDataModule
from anchor_lightning.detectors.backbones import DarkNet19
from anchor_lightning.detectors.yolov2.darknet_cfg import read_anchors
from anchor_lightning.detectors.yolov2.darknet_weights import _backbone_layers, _num_floats, read_backbone
from benchmarks.robustness.made import make_voc
from tests.helpers.made_data import make_brainwash, make_coco, make_yolo

TOO_LONG = 10
"""Seconds."""
TOKENS = (
    *(b"nan", b"-inf", b"1e400", b"-1", b"0", b"9" * 30, b"9" * 400, b"1.5", b"", b" ", b"\n", b"\0", b"\xff", b"\xc3"),
    *(b"[", b"]", b"{", b"}", b'"', b"'", b",", b":", b";", b"(", b")", b"<", b">", b"&", b"&amp;", b"]]>", b"<!--"),
    *(b"null", b"true", b"<!DOCTYPE x>", b"<object>", b"</object>", b"<part>", b"<name>", b"<xmin>", b"\\u0000"),
    *(
        b'"id"',
        b'"bbox"',
        b'"area"',
        b'"image_id"',
        b'"category_id"',
        b'"file_name"',
        b"[1,2,3,4]",
        b"[]",
        b"{}",
        b"../",
    ),
)


VALUE = re.compile(rb'-?\d+(?:\.\d+)?|"[^"]*"|\b(?:dog|cat|xmin|object|name|train|names)\b')
"""What a value looks like in most of the formats."""
VALUES = (
    *(b"-1", b"0", b"1", b"2", b"7", b"0.5", b"1e400", b"-1e400", b"9" * 20, b"9" * 400, b"1e300", b"nan", b"NaN"),
    *(b"Infinity", b"null", b"true", b'"x"', b'""', b"[]", b"{}", b"[1]", b'"5"', b"dog", b"bndbox", b'"\\u0000"'),
    *(b'"\\ud800"', b'"../x"', b'"."', b'"id"', b'"annotations"', b"[1, 2, 3, 4]", b"[1, 2, 1e999, 4]", b"x" * 300),
)


class TooLongError(BaseException):
    """An input took too long; no Exception, so that no reader takes it for one of its own."""


@dataclass
class Target:
    """A reader under test.

    Args:
        seeds: Good files to start from.
        read: Reads the content of one file; an error must name something of `folder`.
        folder: Where the file lies.
    """

    seeds: list[bytes]
    read: Callable[[bytes], None]
    folder: Path
    counts: Counter[str] = field(default_factory=Counter)


def mutated(random: Random, seeds: list[bytes]) -> bytes:
    """A seed after one to six changes: bits flipped, cut, spliced, chunks repeated or dropped, tokens put in."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((1, 2, 4, 16, 64, 256)))
        kind = random.randrange(12)
        if kind == 0 and data:
            place = random.randrange(len(data))
            data[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            data[start:end] = random.randbytes(end - start)
        elif kind == 2:
            del data[start:]
        elif kind == 3:
            del data[start:end]
        elif kind == 4:
            data[start:start] = data[start:end] * random.choice((1, 2, 50))
        elif kind == 5:
            other = random.choice(seeds)
            data[start:] = other[random.randrange(len(other) + 1) :]
        elif kind == 6:
            data[start:start] = random.choice(TOKENS)
        elif kind == 7:
            data[start:end] = random.choice(TOKENS)
        elif values := list(VALUE.finditer(data)):  # the form stays, so that the change gets past the parser
            first, last = random.choice(values).span()
            data[first:last] = random.choice(VALUES)
    return bytes(data)


def check_records(module: DetectionDataModule) -> None:
    """Reads the training split and checks what is promised of it.

    Raises:
        AssertionError: Boxes or labels are not as promised.
    """
    for record in module.records("train"):
        ground_truth = record.ground_truth
        boxes = ground_truth.boxes_xyxy
        assert boxes.shape == (len(ground_truth.labels), 4) and len(ground_truth.ignore) == len(
            ground_truth.area
        ) == len(boxes)
        assert np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes <= (record.width, record.height, record.width, record.height)).all()
        assert ((ground_truth.labels >= 0) & (ground_truth.labels < module.num_classes)).all()


def make_targets(folder: Path) -> dict[str, Target]:
    """The readers, with good files made in a folder."""
    voc, coco = make_voc(folder / "voc"), make_coco(folder / "coco")
    brainwash, yolo = make_brainwash(folder / "brainwash", 2), make_yolo(folder / "yolo", 2)
    network = DarkNet19(0.02)
    numbers = sum(_num_floats(layer) for layer in _backbone_layers(network))
    good = np.full(numbers, 0.01, dtype="<f4").tobytes()
    weights = [np.array(header, dtype="<i4").tobytes() + good for header in ([0, 2, 0, 5, 0], [0, 1, 0, 5])]
    (folder / "voc" / "ImageSets" / "Main" / "train.txt").write_text("t0\n")

    def file_target(file: Path, seeds: list[bytes], read: Callable[[Path], object]) -> Target:
        def run(content: bytes) -> None:
            file.write_bytes(content)
            read(file)

        return Target(seeds, run, folder)

    def image(file: Path) -> None:
        size = image_size_of(file)
        assert read_image(file, expected_size=size).shape == (*size, 3)

    xml, json_file = voc / "Annotations" / "t0.xml", coco / "annotations" / "instances_train2017.json"
    idl, label = brainwash / "brainwash_train.idl", yolo / "labels" / "train" / "00000.txt"
    classes, cfg = ["dog", "cat"], b"[net]\nwidth=416\n[region]\nanchors = 1.3, 1.7,  3.1,4.0\nnum=2\nclasses=3\n"
    return {
        "VOC .xml": file_target(
            xml, [xml.read_bytes()], lambda _: check_records(VOCDataModule(root=str(voc), class_names=classes))
        ),
        "COCO .json": file_target(
            json_file, [json_file.read_bytes()], lambda _: check_records(COCODataModule(root=str(coco)))
        ),
        "Brainwash .idl": file_target(
            idl, [idl.read_bytes()], lambda _: check_records(BrainwashDataModule(root=str(brainwash)))
        ),
        "YOLO .txt": file_target(
            label,
            [label.read_bytes(), b"1 .1 .1 .5 .1 .5 .6\n"],
            lambda _: check_records(YOLODataModule(root=str(yolo))),
        ),
        "YOLO data.yaml": file_target(
            folder / "data.yaml",
            [f"path: {yolo}\ntrain: images/train\nval: [images/val]\nnames: {{0: dog, 1: cat}}\nnc: 2\n".encode()],
            lambda file: check_records(YOLODataModule(data_yaml=str(file))),
        ),
        "darknet .weights": file_target(folder / "x.weights", weights, lambda file: read_backbone(file, network)),
        "darknet .cfg": file_target(folder / "x.cfg", [cfg], read_anchors),
        "images": file_target(folder / "x.jpg", image_seeds(), image),
    }


def image_seeds() -> list[bytes]:
    """A small image in each format."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8))
    seeds = []
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"):
        stream = io.BytesIO()
        picture.save(stream, kind)
        seeds.append(stream.getvalue())
    return seeds


def try_one(target: Target, content: bytes) -> str:
    """`read`, `refused`, or what was found."""
    signal.alarm(TOO_LONG)
    try:
        target.read(content)
        return "read"
    except ValueError as error:
        if raised_here(error) is None:
            return f"{_place(error)}: {type(error).__name__} that is not ours: {error}"[:300]
        return "refused" if str(target.folder) in str(error) else f"{_place(error)}: names no file: {error}"[:300]
    except (Exception, TooLongError) as error:
        return f"{_place(error)}: {type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _too_long(*_: object) -> None:
    raise TooLongError(f"more than {TOO_LONG} s")


def main() -> int:
    """Parses the command line and fuzzes every target in turn until the processor has spent the time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the processor")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the name of a target")
    parser.add_argument("--save", type=Path, help="folder for the first input of every finding")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what the cleaning reports
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    random, findings = Random(options.seed), Counter[tuple[str, str]]()
    start, busy = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as name:
        # Deep enough that a mutated `..` does not lead to all the other files of this machine.
        deep = Path(name, "a", "b", "c")
        deep.mkdir(parents=True)
        targets = {k: t for k, t in make_targets(deep).items() if options.only in k}
        for key, target in targets.items():
            for seed in target.seeds:
                assert (ending := try_one(target, seed)) == "read", f"{key}: a good file is {ending}"
        while time.process_time() < busy + options.minutes * 60:
            for key, target in targets.items():
                for _ in range(20):
                    content = mutated(random, target.seeds)
                    ending = try_one(target, content)
                    known = ending in ("read", "refused")
                    target.counts[ending if known else "found"] += 1
                    if not known:
                        finding = (key, ending.partition(": ")[0])
                        findings[finding] += 1
                        if findings[finding] == 1:
                            print(f"FOUND {key}: {ending}", flush=True)
                            if options.save:
                                options.save.mkdir(parents=True, exist_ok=True)
                                (options.save / f"{key.replace(' ', '_')}-{len(findings)}").write_bytes(content)
    print(f"seed {options.seed}, {time.monotonic() - start:.0f} s, {time.process_time() - busy:.0f} s of the processor")
    print("| reader | inputs | read | refused | findings |\n|---|---|---|---|---|")
    for key, target in targets.items():
        count = target.counts
        print(f"| {key} | {count.total():,} | {count['read']:,} | {count['refused']:,} | {count['found']:,} |")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
