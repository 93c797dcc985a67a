"""Mutated good files through the readers: what is read is sound, anything else is an error that names the file."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from anchor_lightning.data import (
    BrainwashDataModule,
    COCODataModule,
    DetectionDataModule,
    VOCDataModule,
    YOLODataModule,
)
from anchor_lightning.data.images import image_header, read_image
from anchor_lightning.detectors.backbones import DarkNet19
from anchor_lightning.detectors.yolo.darknet_weights import read_backbone
from anchor_lightning.fitting.formats import AnchorSet, anchors_text, read_shapes_file
from tests.helpers.made_data import make_brainwash, make_coco, make_voc, make_yolo

EXAMPLES = int(os.environ.get("MUTATIONS", "1000"))
"""Inputs a reader in the slow run."""
VALUE = re.compile(rb'-?\d+(?:\.\d+)?|"[^"]*"|\b(?:dog|cat|xmin|object|name|train|names)\b')
"""What a value looks like in most of the formats."""
VALUES = (
    *(b"-1", b"0", b"7", b"0.5", b"1e400", b"9" * 20, b"9" * 400, b"1e300", b"NaN", b"Infinity", b"null", b"true"),
    *(b'"x"', b'""', b"[]", b"{}", b"[1]", b'"5"', b"dog", b"bndbox", b'"\\u0000"', b'"\\ud800"', b'"../x"', b'"."'),
    *(b'"id"', b'"annotations"', b"[1, 2, 3, 4]", b"[1, 2, 1e999, 4]", b"x" * 300),
)
TOKENS = (
    *(b"nan", b"-inf", b"", b" ", b"\n", b"\0", b"\xff", b"\xc3", b"[", b"]", b"{", b"}", b'"', b"'", b",", b":", b";"),
    *(b"(", b")", b"<", b">", b"&", b"&amp;", b"]]>", b"<!--", b"<!DOCTYPE x>", b"<object>", b"</object>", b"../"),
)
NETWORK = DarkNet19(0.02)
CFG_OF_LEVELS = b"[net]\nwidth=416\nheight=416\n" + b"[yolo]\nmask=1\nanchors=10,13, 16,30\nnum=2\n" * 2
MMDET = b"""model = dict(bbox_head=dict(anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4,
    scales_per_octave=3, ratios=[0.5, 1 / 1, 2.0], strides=[8, 16 * 2])))
test_pipeline = [dict(type='Resize', scale=(608, 608), keep_ratio=True)]"""
MMDET_SSD = b"""model = dict(a=dict(type='SSDAnchorGenerator', input_size=300, basesize_ratio_range=(0.15, 0.9),
    strides=[8, 16, 32, 64, 100, 300], scale_major=False, ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]]))"""
CFG = b"[net]\nwidth=416\n[region]\nanchors = 1.3, 1.7,  3.1,4.0\nnum=2\nclasses=3\n"


def mutated(random: Random, seeds: list[bytes]) -> bytes:
    """A seed after one to six changes: bits flipped, cut, spliced, chunks repeated or dropped, values replaced."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((1, 2, 4, 16, 64, 256)))
        kind = random.randrange(11)
        if kind == 0:
            data[start:end] = random.randbytes(end - start)
        elif kind == 1:
            del data[start:]
        elif kind == 2:
            data[start:start] = data[start:end] * random.choice((1, 2, 50))
        elif kind == 3:
            data[start:] = (other := random.choice(seeds))[random.randrange(len(other) + 1) :]
        elif kind <= 5:
            data[start : random.choice((start, end))] = random.choice(TOKENS)
        elif values := list(VALUE.finditer(data)):  # the form stays, so that the change gets past the parser
            first, last = random.choice(values).span()
            data[first:last] = random.choice(VALUES)
    return bytes(data)


def check_records(module: DetectionDataModule) -> None:
    """Boxes are finite, inside the image and not empty; labels are in range."""
    for record in module.records("train"):
        read = record.ground_truth
        boxes = read.boxes_xyxy
        assert boxes.shape == (len(read.labels), 4) and len(read.ignore) == len(read.area) == len(boxes)
        assert np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes <= (record.width, record.height, record.width, record.height)).all()
        assert ((read.labels >= 0) & (read.labels < module.num_classes)).all()


def read_pixels(file: Path) -> None:
    """An image has the size that its header says."""
    size = image_header(file).stored_size
    assert read_image(file, expected_size=size).shape == (*size, 3)


def images() -> list[bytes]:
    """A small image in each format."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    streams = {kind: io.BytesIO() for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")}
    for kind, stream in streams.items():
        Image.fromarray(pixels).save(stream, kind)
    return [stream.getvalue() for stream in streams.values()]


def weights() -> list[bytes]:
    """Of the backbone, with either length of header."""
    count = sum(v.numel() for v in NETWORK.state_dict().values() if v.is_floating_point())
    numbers = np.full(count, 0.01, dtype="<f4").tobytes()
    return [np.array(header, dtype="<i4").tobytes() + numbers for header in ([0, 2, 0, 5, 0], [0, 1, 0, 5])]


YAML = b"path: .\ntrain: images/train\nval: [images/val]\nnames: {0: dog, 1: cat}\nnc: 2\n"
CLASSES = ["dog", "cat"]
# What makes a data set; the file that is changed, its good contents beside what was made, and its reader.
READERS: dict[str, tuple[Callable[[Path], object] | None, str, list[bytes], Callable[[Path], object]]] = {
    "VOC .xml": (
        lambda folder: make_voc(folder, num=1),
        "VOC2012/Annotations/2012_10000.xml",
        [],
        lambda file: check_records(VOCDataModule(root=str(file.parents[1]), class_names=CLASSES)),
    ),
    "COCO .json": (
        make_coco,
        "annotations/instances_train2017.json",
        [],
        lambda file: check_records(COCODataModule(root=str(file.parents[1]))),
    ),
    "Brainwash .idl": (
        make_brainwash,
        "brainwash_train.idl",
        [],
        lambda file: check_records(BrainwashDataModule(root=str(file.parent))),
    ),
    "YOLO .txt": (
        make_yolo,
        "labels/train/00000.txt",
        [b"1 .1 .1 .5 .1 .5 .6\n"],
        lambda file: check_records(YOLODataModule(root=str(file.parents[2]))),
    ),
    "YOLO .yaml": (make_yolo, "my.yaml", [YAML], lambda file: check_records(YOLODataModule(data_yaml=str(file)))),
    "darknet .weights": (None, "x.weights", weights(), lambda file: read_backbone(file, NETWORK)),
    "darknet .cfg": (None, "x.cfg", [CFG, CFG_OF_LEVELS], read_shapes_file),
    "YOLOv5 .yaml": (None, "x.yaml", [b"nc: 3\nanchors:\n  - [10,13, 16,30]\n  - [[33, 23]]\n"], read_shapes_file),
    "mmdet .py": (None, "x.py", [MMDET, MMDET_SSD], read_shapes_file),
    "anchors.json": (None, "x.json", [anchors_text(AnchorSet(torch.ones(4, 2)), "json").encode()], read_shapes_file),
    "image": (None, "x.jpg", images(), read_pixels),
}


@pytest.mark.filterwarnings("ignore")  # what the cleaning reports
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("examples", [25, pytest.param(EXAMPLES, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS)
def test_mutations(reader: str, examples: int, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"  # a mutated `..` must not lead to all the other files of this machine
    folder.mkdir(parents=True)
    make, name, seeds, read = READERS[reader]
    if make:
        make(folder)
    file = folder / name
    seeds = [*seeds, file.read_bytes()] if file.is_file() else seeds
    for seed in seeds:
        file.write_bytes(seed)
        read(file)

    @settings(max_examples=examples, deadline=10_000, database=None, suppress_health_check=list(HealthCheck))
    @given(random=st.randoms(use_true_random=True))
    def check(random: Random) -> None:
        file.write_bytes(mutated(random, seeds))
        try:
            read(file)
        except ValueError as error:
            assert str(folder) in str(error)

    check()
