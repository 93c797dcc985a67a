"""Shows what a trained detector finds in images or in a video of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from anchor_lightning.commands.export import load_task, network_size
from anchor_lightning.commands.sources import find_files, name_of, picture_names, shared_folder
from anchor_lightning.data.dataset import Sample, collate
from anchor_lightning.data.images import IMAGE_SUFFIXES, read_image, reduced
from anchor_lightning.data.transforms import NEUTRAL_COLOUR, WHOLE_IMAGE, warp_image
from anchor_lightning.data.video import VIDEO_SUFFIXES, Video, VideoFile, open_video
from anchor_lightning.errors import UserError
from anchor_lightning.metrics.coco import coco_results
from anchor_lightning.structures import Detections
from anchor_lightning.task import DetectionTask
from anchor_lightning.training.checkpoint_files import find_checkpoint
from anchor_lightning.training.files import atomic_files
from anchor_lightning.training.run_folder import run_folder_of_checkpoint
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
) -> Path:
    """Draws what a checkpoint finds in your own images or video: predict --ckpt_path FILE --source PATH.

    Images are prepared as in validation: their stored pixels (EXIF orientation is ignored), stretched to the network.

    Args:
        ckpt_path: Checkpoint of a run of this project; `last` for that of the newest run under `runs`.
        source: An image, a folder of images, a glob in quotes ('photos/**/*.jpg'), or a video.
        output: Folder for the annotated images (or the annotated `.mp4`), `predictions.json` (COCO results) and
            `images.json` (which image or frame each `image_id` is, and the categories; what `COCO(...)` reads before
            `loadRes`); `predictions/NAME OF THE SOURCE` in the checkpoint's run folder if not given.
        score_threshold: Detections that score up to this are dropped; in [0, 1).
        show_anchors: Show which anchor shape each box came from: frames in the anchor's colour, `#k` with k from 0 in
            the texts (of the best 20 boxes at most), and below the image a strip with the shapes.
        image_size: Side, or height and width, of the network input in pixels; that of the validation if not given.
        batch_size: Images at a time.
        device: `auto` (an accelerator if there is one), `cpu`, `cuda:1`, …

    Returns:
        The results file. Images that cannot be read are left out and named at the end.

    Raises:
        UserError: An option is out of its range, the source holds nothing that can be read, the output would lie among
            the sources or cannot be written, or the checkpoint cannot be read.
    """
    if not 0 <= score_threshold < 1:
        raise UserError(f"--score_threshold: {score_threshold} must be from 0 to below 1")
    if batch_size < 1:
        raise UserError(f"--batch_size: {batch_size} must be 1 or more")
    files = find_files(source)
    checkpoint = find_checkpoint(ckpt_path)
    task, details = load_task(checkpoint)
    folder = Path(output) if output else run_folder_of_checkpoint(checkpoint) / "predictions" / name_of(source, files)
    if folder.resolve() in {place for file in files for place in (file.parent.resolve(), file.resolve().parent)}:
        raise UserError(f"--output: {folder} holds the source itself; choose a folder of its own")
    task.hparams["score_threshold"] = min(score_threshold, LOWEST_SCORE)
    size = network_size(image_size, details)
    category_ids = details.get("category_ids") or list(range(1, len(task.class_names) + 1))
    finder = Finder(_on_device(task, device), size, category_ids, score_threshold, show_anchors)
    if files[0].suffix.lower() in VIDEO_SUFFIXES:
        _predict_video(files[0], folder, finder, batch_size)
    else:
        _predict_images(files, folder, finder, batch_size)
    what = f"{len(finder.rows)} boxes in {len(finder.images)} images"
    print(f"Wrote {what} to {folder} (scores above {score_threshold}, network input {size[0]} x {size[1]} pixels)")
    if not finder.rows:
        print(finder.why_nothing())
    return folder / RESULTS


class Prepared(NamedTuple):
    """The whole image (h, w, 3), the network input (H, W, 3), both uint8 RGB, and what `images.json` says besides."""

    whole: np.ndarray
    seen: np.ndarray
    entry: dict[str, Any]


@dataclass
class Finder:
    """Detects in batches and keeps what the two JSON files will say.

    Args:
        task: In evaluation mode, on its device.
        size: Height and width of the network input in pixels.
        category_ids: The category of each class.
        score_threshold: Detections that score up to this are dropped.
        show_anchors: Show which anchor each box came from.
    """

    task: DetectionTask
    size: tuple[int, int]
    category_ids: Sequence[int]
    score_threshold: float
    show_anchors: bool
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)
    images: list[dict[str, Any]] = field(default_factory=list, init=False)
    best_score: float = field(default=0.0, init=False)

    def annotate(self, batch: Sequence[Prepared]) -> list[np.ndarray]:
        """Draws and keeps the detections of some images; returns the annotated images, (h, w, 3) uint8 RGB."""
        pictures = []
        shapes = self.task.shapes.wh.detach().cpu().numpy() if self.show_anchors else None
        for (whole, _, entry), detections in zip(batch, self._detect(batch) if batch else [], strict=True):
            image_id, (height, width) = len(self.images) + 1, whole.shape[:2]
            self.images.append({"id": image_id, **entry, "width": width, "height": height})
            self.rows.extend(coco_results(image_id, detections, self.category_ids))
            pictures.append(draw_detections(whole, detections, self.task.class_names, shapes))
        return pictures

    def why_nothing(self) -> str:
        """What to do when no box was found, by the best score seen."""
        asked = f"No box scores above --score_threshold {self.score_threshold}"
        if self.best_score > 0:
            lower = rounded_down(self.best_score)
            return f"{asked}; the best scores {self.best_score:.4f}. Give --score_threshold {lower} or less to see it."
        lowest = f", nor above {LOWEST_SCORE}" if self.score_threshold > LOWEST_SCORE else ""
        return f"{asked}{lowest}. Was the detector trained long enough, on images like these?"

    def write(self, results: Path, images: Path) -> None:
        """Writes the two files."""
        classes = zip(self.category_ids, self.task.class_names, strict=True)
        categories = [{"id": category_id, "name": name} for category_id, name in classes]
        results.write_text("[" + ",\n".join(map(json.dumps, self.rows)) + "]\n")
        images.write_text(json.dumps({"images": self.images, "annotations": [], "categories": categories}, indent=1))

    @torch.inference_mode()
    def _detect(self, images: Sequence[Prepared]) -> list[Detections]:
        no_boxes, no_labels = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
        samples = [
            Sample(seen, no_boxes, no_labels, index, (whole.shape[0], whole.shape[1]), NEUTRAL_COLOUR)
            for index, (whole, seen, _) in enumerate(images, start=1)  # 0 stands for no image
        ]
        batch = collate(samples).to(self.task.device)
        batch.images = batch.images.float().div_(255)
        found = [Detections(**{name: t.cpu() for name, t in vars(d).items()}) for d in self.task.detect(batch)[0]]
        self.best_score = max([self.best_score, *(score for d in found for score in d.scores[:1].tolist())])
        return [best_detections(d, self.score_threshold, above=True) for d in found]


def _on_device(task: DetectionTask, device: str) -> DetectionTask:
    try:
        accelerator = torch.accelerator.current_accelerator(check_available=True) if device == "auto" else device
        return task.to(accelerator or "cpu")
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: {device} cannot be used ({reason}); take auto or cpu") from None


def _predict_images(files: Sequence[Path], folder: Path, finder: Finder, batch_size: int) -> None:
    skipped: list[str] = []
    prepared = _prepared(files, finder.size, skipped)
    # Beside what the command prints, so that its output can be kept.
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("images", total=len(files))
        while batch := list(islice(prepared, batch_size)):
            for picture, (_, _, entry) in zip(finder.annotate(batch), batch, strict=True):
                with atomic_files(folder / entry["picture"]) as (partial,):
                    save_picture(picture, partial)
            progress.update(bar, completed=len(finder.images) + len(skipped))
    if not finder.images:
        raise UserError(_nothing_read(files, skipped))
    with atomic_files(folder / RESULTS, folder / IMAGES) as (results, images):
        finder.write(results, images)
    if skipped:
        print("\n  ".join([f"{len(skipped)} of {len(files)} images cannot be read and were skipped:", *skipped]))


def _prepared(files: Sequence[Path], size: tuple[int, int], skipped: list[str]) -> Iterator[Prepared]:
    """The images that can be read; says of the others in `skipped` why not."""
    shared = shared_folder(files)
    for file, name in zip(files, picture_names(files), strict=True):
        inside = (file.parent.resolve() / file.name).relative_to(shared).as_posix()
        try:
            # Read twice: for the network a large JPEG is decoded at a fraction of its size, as in validation.
            seen = warp_image(read_image(file, WHOLE_IMAGE.source_size(size)), WHOLE_IMAGE, size)
            prepared = Prepared(read_image(file), seen, {"file_name": inside, "picture": name})
        except ValueError as error:
            skipped.append(str(error))
            continue
        yield prepared


def _nothing_read(files: Sequence[Path], skipped: Sequence[str]) -> str:
    if len(files) > 1:
        return f"--source: no image can be read (0 of {len(files)}), nothing was written. {skipped[0]}"
    if files[0].suffix.lower() in IMAGE_SUFFIXES:
        return f"--source: {skipped[0]}"
    return f"--source: {skipped[0]} Videos are known by their names ({', '.join(VIDEO_SUFFIXES)})."


def _predict_video(file: Path, folder: Path, finder: Finder, batch_size: int) -> None:
    names = (f"{file.stem}.mp4", RESULTS, IMAGES)
    # Opened before anything is made in the output folder.
    with open_video(file) as video, atomic_files(*(folder / name for name in names)) as (partial, results, images):
        with VideoFile(partial, video.fps) as annotated:
            _annotate_video(video, file.name, annotated, finder, batch_size)
        finder.write(results, images)
    if video.stated is not None and len(finder.images) < video.stated:
        print(f"{file} states {video.stated} frames; only {len(finder.images)} of them can be read.")


def _annotate_video(video: Video, name: str, annotated: VideoFile, finder: Finder, batch_size: int) -> None:
    size = finder.size
    # Reduced before they are stretched, as `read_image` would do with a PNG.
    frames = (
        Prepared(
            whole,
            warp_image(reduced(whole, WHOLE_IMAGE.source_size(size)), WHOLE_IMAGE, size),
            {"file_name": name, "frame": index},
        )
        for index, whole in enumerate(video.frames)
    )
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("frames", total=video.stated)
        while batch := list(islice(frames, batch_size)):
            for picture in finder.annotate(batch):
                annotated.write(picture)
            progress.advance(bar, len(batch))
        progress.update(bar, total=len(finder.images))  # what a video states of its length may be wrong
