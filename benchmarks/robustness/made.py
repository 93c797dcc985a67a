"""Tiny data sets to spoil, and the words that train on them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.robustness.harness import _exit_code_of
from tests.helpers.made_data import draw, make_brainwash, make_coco, make_yolo

TINY: Final = (
    *("--config", "small.yaml", "--trainer.precision=32-true", "--model.width=0.1", "--model.anchors.init=identical"),
    *("--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.enable_progress_bar=false"),
    *("--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1", "--model.prior_images=0"),
    *("--soft_assignment.start=2.0", "--anchor_logger.animation=false", "--anchor_logger.every_n_steps=1"),
    "--prediction_pictures.num_images=0",
)
SIZES: Final = ("--data.batch_size=4", "--data.image_size=64")
SYNTHETIC: Final = (
    *TINY,
    *("--data=SyntheticDataModule", "--data.num_workers=0", *SIZES, "--data.num_train=8", "--data.num_val=2"),
)
BRAINWASH: Final = ("--data.val_image_size=64", "--data.root=data")
WORDS: Final[dict[str, Sequence[str]]] = {
    "voc": (*TINY, *SIZES, "--data.root=data"),
    "coco": (*TINY, "--data=COCODataModule", "--data.num_workers=0", *SIZES, "--data.root=data"),
    "brainwash": (*TINY, "--data=BrainwashDataModule", "--data.num_workers=0", *SIZES, *BRAINWASH),
    "yolo": (*TINY, "--data=YOLODataModule", "--data.num_workers=0", *SIZES, "--data.root=data"),
    "synthetic": SYNTHETIC,
    "trained": SYNTHETIC,
    "": (),
}
"""Kind of data -> words behind `fit`; four training images a step, two steps, in the folder of the case."""


def make_voc(root: Path) -> Path:
    """A set of one's own in VOC's layout: t0 to t3 to train, v0 and v1 to validate, a dog and a cat in each."""
    for split, stems in (("train", ["t0", "t1", "t2", "t3"]), ("val", ["v0", "v1"])):
        for stem in stems:
            boxes = draw(root / "JPEGImages" / f"{stem}.jpg", seed=sum(stem.encode()))
            write(root / "Annotations" / f"{stem}.xml", voc_xml(*map(voc_object, boxes, ("dog", "cat"))))
        write(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
    return root


def voc_object(box: Sequence[object], name: str = "dog", more: str = "") -> str:
    """An `<object>` with the corners as written."""
    x1, y1, x2, y2 = box
    return (
        f"<object><name>{name}</name>{more}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
    )


def voc_xml(*objects: str) -> str:
    """An annotation with these objects."""
    return f"<annotation>{''.join(objects)}</annotation>"


def write(path: Path, content: str | bytes) -> Path:
    """Writes a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def make_templates(folder: Path) -> dict[str, Path]:
    """The data sets that cases start from, by kind; `trained` holds a checkpoint `last.ckpt` of a finished training."""
    templates = {
        "voc": make_voc(folder / "voc"),
        "coco": make_coco(folder / "coco"),
        "brainwash": make_brainwash(folder / "brainwash"),
        "yolo": make_yolo(folder / "yolo"),
        "trained": folder / "trained",
    }
    templates["trained"].mkdir()
    child = os.fork()  # this process stays as it was after the imports
    if child == 0:
        os.chdir(folder)
        sys.argv = ["anchor_lightning"]
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        os._exit(_exit_code_of(["fit", *SYNTHETIC, "--trainer.logger=false", "--trainer.default_root_dir=first"]))
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError("the training that makes a good checkpoint has failed")
    (checkpoint,) = (folder / "first").rglob("last.ckpt")
    checkpoint.rename(templates["trained"] / "last.ckpt")
    return templates


def words(*given: str) -> Callable[[Path], Sequence[str]]:
    """Leaves the data alone and adds words to the command line."""
    return lambda data: given
