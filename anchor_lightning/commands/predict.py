"""Shows what a trained detector finds in images or in a video of one's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from anchor_lightning.commands.ahead import ahead
from anchor_lightning.commands.export import load_task, network_size
from anchor_lightning.commands.inference import Engine, Inference, Precision
from anchor_lightning.commands.prediction_input import (
    Prepared,
    find_files,
    name_of,
    picture_names,
    prepared_frames,
    prepared_images,
)
from anchor_lightning.data.dataset import Sample, collate
from anchor_lightning.data.images import IMAGE_SUFFIXES
from anchor_lightning.data.transforms import NEUTRAL_COLOUR
from anchor_lightning.data.video import VIDEO_SUFFIXES, VideoFile, open_video
from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.errors import UserError
from anchor_lightning.metrics.coco import coco_results
from anchor_lightning.structures import Detections
from anchor_lightning.task import DetectionTask
from anchor_lightning.training.checkpoint_files import find_checkpoint
from anchor_lightning.training.files import atomic_files, run_folder_of_checkpoint
from anchor_lightning.visualization.detections import best_detections, draw_detections, rounded_down, save_picture

RESULTS, IMAGES = "predictions.json", "images.json"
LOWEST_SCORE: Final = 0.005
"""Detections are made down to this, as in validation, so that the best one is known if none is kept."""


def predict(
    ckpt_path: str,
    source: str,
    output: str | None = None,
    score_threshold: float = 0.3,
    show_anchors: bool = False,
    image_size: int | list[int] | None = None,
    batch_size: int = 8,
    device: str = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
) -> Path:
    """Draws what a checkpoint finds in your own images or video: predict --ckpt_path FILE --source PATH.

    Images are turned as their EXIF orientation says and stretched to the network's size, as in validation.

    Args:
        ckpt_path: Checkpoint of a run of this project; `last` for that of the newest run under `runs`,
            `best` for the best validation of that run.
        source: An image, a folder of images, a glob in quotes ('photos/**/*.jpg'), or a video.
        output: Folder for the annotated images (or the annotated `.mp4`), `predictions.json` (COCO results) and
            `images.json` (what each `image_id` is); `predictions/NAME` in the checkpoint's run folder if not given.
        score_threshold: Detections that score up to this are dropped; in [0, 1).
        show_anchors: Show which anchor each box came from, by colour and number, and the shapes in a strip below; of
            YOLO detectors.
        image_size: Side, or height and width, of the network input in pixels; that of the validation if not given.
        batch_size: Images at a time.
        device: `auto` (an accelerator if there is one), `cpu`, `cuda:1`, …
        precision: `32-true`, as in a validation in that precision, or `bf16-mixed`; `auto` is bf16 for YOLO detectors
            on a CPU that has instructions for it: half the time, and boxes that agree (docs/speed.md).
        engine: `torch`, `onnxruntime` (the extra `onnx`; YOLO detectors on a CPU, in float32, after an export of some
            seconds), or `auto`: onnxruntime where it can be imported, for 200 images or more, if the CPU has no
            instructions for bf16 and no precision is given.

    Returns:
        The results file. Images that cannot be read are left out and named at the end.

    Raises:
        UserError: An option is out of its range, the source holds nothing that can be read, the output would lie among
            the sources, replace files that may be originals, or cannot be written, or the checkpoint cannot be read.
    """
    if not 0 <= score_threshold < 1:
        raise UserError(f"{score_threshold} must be from 0 to below 1", "score_threshold")
    if batch_size < 1:
        raise UserError(f"{batch_size} must be 1 or more", "batch_size")
    files = find_files(source)
    checkpoint = find_checkpoint(ckpt_path)
    task, details = load_task(checkpoint)
    if show_anchors and not isinstance(task.detector, YOLO):
        kind = type(task.detector).__name__
        raise UserError(f"{kind} does not say which anchor a box came from, only the YOLOs do", "show_anchors")
    folder = Path(output) if output else run_folder_of_checkpoint(checkpoint) / "predictions" / name_of(source, files)
    if folder.resolve() in {place for file in files for place in (file.parent.resolve(), file.resolve().parent)}:
        raise UserError(f"{folder} holds the source itself; choose a folder of its own", "output")
    is_video = files[0].suffix.lower() in VIDEO_SUFFIXES
    is_replaced = (folder / IMAGES).exists()
    if output and not is_replaced:
        _check_not_there(folder, [RESULTS, *([f"{files[0].stem}.mp4"] if is_video else picture_names(files))])
    task.hparams["score_threshold"] = min(score_threshold, LOWEST_SCORE)
    size = network_size(image_size, details)
    category_ids = details.get("category_ids") or list(range(1, len(task.class_names) + 1))
    num_images = _num_frames(files[0]) if is_video else len(files)
    inference = Inference(_on_device(task, device), size, num_images, precision, engine)
    finder = Finder(inference, category_ids, score_threshold, show_anchors)
    if is_video:
        _predict_video(files[0], folder, finder, size, batch_size)
    else:
        _predict_images(files, folder, finder, size, batch_size)
    what = f"{len(finder.rows)} boxes in {len(finder.images)} images"
    how = f"network input {size[0]} x {size[1]} pixels{inference.words}"
    print(f"Wrote {what} to {folder} (scores above {score_threshold}, {how})")
    if is_replaced:
        print("The predictions that were there before are replaced; pictures of other names stay.")
    if not finder.rows:
        print(finder.why_nothing())
    return folder / RESULTS


class Found(NamedTuple):
    """The whole image (h, w, 3) uint8 RGB, what is kept of the detections in it, and its entry."""

    whole: np.ndarray
    detections: Detections
    entry: dict[str, Any]


class Finder:
    """Detects in batches and keeps what the two JSON files will say.

    Args:
        inference: Of a task.
        category_ids: The category of each class.
        score_threshold: Detections that score up to this are dropped.
        show_anchors: Show which anchor each box came from.
    """

    def __init__(
        self, inference: Inference, category_ids: Sequence[int], score_threshold: float, show_anchors: bool
    ) -> None:
        self._inference, self._category_ids, self._score_threshold = inference, category_ids, score_threshold
        task = inference.task
        self._class_names = task.class_names
        self._shapes = task.shapes.wh.detach().cpu().numpy() if show_anchors else None
        self.rows: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self._best_score = 0.0

    def find(self, prepared: Iterator[Prepared], batch_size: int) -> Iterator[Found]:
        """Detects, and keeps what the files will say."""
        while batch := list(islice(prepared, batch_size)):
            for (whole, _, entry), found in zip(batch, self._detect(batch), strict=True):
                self._best_score = max([self._best_score, *found.scores[:1].tolist()])
                detections = best_detections(found, self._score_threshold, above=True)
                image_id, (height, width) = len(self.images) + 1, whole.shape[:2]
                self.images.append({"id": image_id, **entry, "width": width, "height": height})
                self.rows.extend(coco_results(image_id, detections, self._category_ids))
                yield Found(whole, detections, entry)

    def draw(self, found: Found) -> np.ndarray:
        """The annotated image, (h, w, 3) uint8 RGB."""
        return draw_detections(found.whole, found.detections, self._class_names, self._shapes)

    def why_nothing(self) -> str:
        """What to do when no box was found, by the best score seen."""
        asked = f"No box scores above --score_threshold {self._score_threshold}"
        if self._best_score > 0:
            lower = rounded_down(self._best_score)
            return f"{asked}; the best scores {self._best_score:.4f}. Give --score_threshold {lower} or less to see it."
        lowest = f", nor above {LOWEST_SCORE}" if self._score_threshold > LOWEST_SCORE else ""
        return f"{asked}{lowest}. Was the detector trained long enough, on images like these?"

    def keep(self, number: int) -> None:
        """Forgets all but the first images."""
        self.images, self.rows = self.images[:number], [row for row in self.rows if row["image_id"] <= number]

    def write(self, results: Path, images: Path) -> None:
        """Writes the two files."""
        classes = zip(self._category_ids, self._class_names, strict=True)
        categories = [{"id": category_id, "name": name} for category_id, name in classes]
        results.write_text("[" + ",\n".join(map(json.dumps, self.rows)) + "]\n")
        images.write_text(json.dumps({"images": self.images, "annotations": [], "categories": categories}, indent=1))

    def _detect(self, images: Sequence[Prepared]) -> list[Detections]:
        no_boxes, no_labels = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
        samples = [
            Sample(seen, no_boxes, no_labels, index, (whole.shape[0], whole.shape[1]), NEUTRAL_COLOUR)
            for index, (whole, seen, _) in enumerate(images, start=len(self.images) + 1)  # as in `images.json`
        ]
        return self._inference.detect(collate(samples))


def _check_not_there(folder: Path, names: Sequence[str]) -> None:
    """Raises a `UserError` for files that would be replaced and may be originals: no `images.json` says otherwise."""
    if name := next((name for name in names if (folder / name).exists()), None):
        raise UserError(
            f"{folder} holds {name}, which would be replaced, and no {IMAGES} that tells it from an original; choose "
            f"another folder, or remove {name}",
            "output",
        )


def _on_device(task: DetectionTask, device: str) -> DetectionTask:
    try:
        accelerator = torch.accelerator.current_accelerator(check_available=True) if device == "auto" else device
        return task.to(accelerator or "cpu")
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UserError(f"{device} cannot be used ({reason}); take auto or cpu", "device") from None


def _num_frames(file: Path) -> int:
    """What a video states; 0 where it states none."""
    with open_video(file) as video:
        return video.stated or 0


def _predict_images(
    files: Sequence[Path], folder: Path, finder: Finder, size: tuple[int, int], batch_size: int
) -> None:
    skipped, saved = list[str](), list[str]()

    def save(found: Found) -> None:
        with atomic_files(folder / found.entry["picture"]) as (written,):
            save_picture(finder.draw(found), written)
        saved.append(found.entry["picture"])

    try:
        for _ in ahead(save, finder.find(prepared_images(files, size, batch_size, skipped), batch_size), 1, batch_size):
            pass
    except BaseException:  # Ctrl+C and too little memory among them: what was done is kept, and known as ours
        if saved:
            finder.keep(len(saved))
            _write_results(folder, finder)
            print(f"{len(saved)} of {len(files)} images were done; their results are in {folder}", file=sys.stderr)
        raise
    if not finder.images:
        if len(files) > 1:
            raise UserError(f"no image can be read (0 of {len(files)}), nothing was written. {skipped[0]}", "source")
        known = f" Videos are known by their names ({', '.join(VIDEO_SUFFIXES)})."
        raise UserError(skipped[0] + known * (files[0].suffix.lower() not in IMAGE_SUFFIXES), "source")
    _write_results(folder, finder)
    if skipped:
        print("\n  ".join([f"{len(skipped)} of {len(files)} images cannot be read and were skipped:", *skipped]))


def _write_results(folder: Path, finder: Finder) -> None:
    with atomic_files(folder / RESULTS, folder / IMAGES) as (results, images):
        finder.write(results, images)


def _predict_video(file: Path, folder: Path, finder: Finder, size: tuple[int, int], batch_size: int) -> None:
    paths = [folder / name for name in (f"{file.stem}.mp4", RESULTS, IMAGES)]
    # Opened before anything is made in the output folder.
    with open_video(file) as video, atomic_files(*paths) as (partial, results, images):
        with VideoFile(partial, video.fps) as annotated:

            def write(found: Found) -> None:
                annotated.write(finder.draw(found))

            for _ in ahead(write, finder.find(prepared_frames(file.name, video, size), batch_size), 1, batch_size):
                pass
        finder.write(results, images)
    if not annotated.plays_in_browsers:
        print(
            'The video is MPEG-4 Part 2, which browsers do not play; for H.264: pip install ".[video]" in the checkout'
        )
    if video.stated is not None and len(finder.images) < video.stated:
        print(f"{file} states {video.stated} frames; only {len(finder.images)} of them can be read.")
