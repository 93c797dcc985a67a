"""Detections drawn on their images: for the loggers, the run folder and `predict`.

A colour stands for a class, or for an anchor shape where these are shown; words beside the boxes say the rest, as far
as there is room. Shape letters: H, W height and width of an image in pixels, N boxes of the image, M annotated boxes,
A anchor shapes, C classes.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from anchor_lightning.structures import Detections
from anchor_lightning.visualization.lettering import COLOURS, Entry, Frame, Labels, dashed, font_for, line_width, strip

MAX_LABELS: Final = 20
"""Detections of an image that get a text, and annotated boxes that do: with many more nothing is left of the image."""
ANNOTATED: Final = ("white", "black")
"""Ground and letters of an annotated box's name."""
NO_ANCHOR: Final = ("#888888", "white")
GAP: Final = 4
"""White pixels between the images of a sheet."""


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    anchors_wh: np.ndarray | None = None,
    ground_truth_xyxy: np.ndarray | None = None,
    ground_truth_labels: Sequence[int] = (),
) -> np.ndarray:
    """A copy of an image with its detections: a frame in the colour of the class, and `class 0.87` above it.

    Lines and letters grow with the image. The best detections are drawn last and so lie on top. The best 20 get a text,
    less those whose text would cover a better one's; every box has its frame. Parts of a box outside the image are cut
    off; a box that lies wholly outside is left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: N boxes in pixels of `image` (continuous, 0-based), in any order.
        class_names: C names; position is the label.
        anchors_wh: (A, 2) the anchor shapes, in pixels of the network input, to show where each box came from: frames
            have the anchor's colour, texts end in `#k` with k from 0, and a strip below the image lists the shapes and
            how many boxes have a text.
        ground_truth_xyxy: (M, 4) annotated boxes in pixels of `image`, drawn underneath, in black and white dashes.
        ground_truth_labels: M labels, whose names are written on white where detections leave room; none if not given.

    Returns:
        (H, W, 3) uint8 RGB; with `anchors_wh` higher by a strip, whose height depends on W, H and the shapes alone.

    Raises:
        ValueError: The image is not (H, W, 3) uint8, a box or score is not finite, or a label has no name.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an image as (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    check_drawable(detections, len(class_names))
    size = (image.shape[0], image.shape[1])
    picture = Image.fromarray(image)
    draw, line = ImageDraw.Draw(picture), line_width(size)
    ground_truths = [_frame(box, size) for box in ([] if ground_truth_xyxy is None else ground_truth_xyxy.tolist())]
    for ground_truth in ground_truths:
        if ground_truth is not None:
            dashed(draw, ground_truth, max(1, line // 2))
    frames = [_frame(box, size) for box in detections.boxes_xyxy.tolist()]
    best_first = detections.scores.argsort(stable=True, descending=True).tolist()
    shown = [(frame, index) for index in best_first if (frame := frames[index]) is not None]
    texts, colours = _texts(detections, class_names, anchors_wh is not None)
    for frame, index in reversed(shown):
        draw.rectangle(frame, outline=colours[index][0], width=line)
    # After all frames: none may cross a text.
    labels = Labels(draw, size, font_for(size))
    written = sum(labels.write(texts[index], frame, colours[index]) for frame, index in shown[:MAX_LABELS])
    for ground_truth, label in list(zip(ground_truths, ground_truth_labels, strict=False))[:MAX_LABELS]:
        if ground_truth is not None:
            labels.write(class_names[label], ground_truth, ANNOTATED, below=True)
    if anchors_wh is None:
        return np.array(picture)
    return np.vstack([np.array(picture), _anchor_strip(anchors_wh, size, written, len(shown))])


def _texts(
    detections: Detections, class_names: Sequence[str], show_anchors: bool
) -> tuple[list[str], list[tuple[str, str]]]:
    """What stands at each box, and the colours of the ground and of the letters."""
    texts, colours = [], []
    rows = zip(detections.labels.tolist(), detections.scores.tolist(), detections.anchors.tolist(), strict=True)
    for label, score, anchor in rows:
        text, colour = f"{class_names[label]} {score:.2f}", COLOURS[label % len(COLOURS)]
        if show_anchors:  # -1: the detector does not say
            text, colour = (f"{text} #{anchor}", COLOURS[anchor % len(COLOURS)]) if anchor >= 0 else (text, NO_ANCHOR)
        texts.append(text)
        colours.append(colour)
    return texts, colours


def _anchor_strip(anchors_wh: np.ndarray, size: tuple[int, int], num_labelled: int, num_boxes: int) -> np.ndarray:
    shapes = [
        Entry(f"#{k} {w:.0f} x {h:.0f}", COLOURS[k % len(COLOURS)][0]) for k, (w, h) in enumerate(anchors_wh.tolist())
    ]
    # A paragraph of its own, in one line: its digits must not change the height, the same for all frames of a video.
    return strip(
        size[1],
        [[Entry("anchor, width x height at the network input:"), *shapes], [Entry(_count(num_labelled, num_boxes))]],
        size,
    )


def _count(num_labelled: int, num_boxes: int) -> str:
    if num_labelled == num_boxes:
        return f"{num_boxes} boxes" if num_boxes != 1 else "1 box"
    return f"{num_boxes} boxes, {num_labelled} of the best with text"


def check_drawable(detections: Detections, num_classes: int) -> None:
    """Refuses detections that cannot be drawn, which W&B would accept without a word.

    Raises:
        ValueError: A box or score is not finite, or a label lies outside [0, num_classes).
    """
    if not (detections.boxes_xyxy.isfinite().all() and detections.scores.isfinite().all()):
        raise ValueError("a detection has a box or score that is not finite, so it cannot be drawn")
    wrong = detections.labels[(detections.labels < 0) | (detections.labels >= num_classes)]
    if len(wrong):
        raise ValueError(f"a detection has the label {int(wrong[0])}, but there are {num_classes} class names")


def best_detections(detections: Detections, threshold: float, above: bool = False) -> Detections:
    """The detections that score at least `threshold`, in their order; with `above` only those that score more."""
    kept = detections.scores > threshold if above else detections.scores >= threshold
    return Detections(
        detections.boxes_xyxy[kept], detections.scores[kept], detections.labels[kept], detections.anchors[kept]
    )


def resize(image: np.ndarray, longer_side: int) -> np.ndarray:
    """An (H, W, 3) image whose longer side is `longer_side` pixels, in the same proportions."""
    scale = longer_side / max(image.shape[:2])
    if scale == 1:
        return image
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)


def scale_detections(detections: Detections, scale: tuple[float, float]) -> Detections:
    """Detections whose (N, 4) boxes are stretched by a factor for x and one for y."""
    factors: Tensor = torch.tensor(scale * 2, dtype=detections.boxes_xyxy.dtype, device=detections.boxes_xyxy.device)
    return replace(detections, boxes_xyxy=detections.boxes_xyxy * factors)


def contact_sheet(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images side by side on white, about as many across as down, each in the middle of its cell.

    Args:
        images: At least one, (H, W, 3) uint8; sizes may differ.

    Raises:
        ValueError: There is no image.
    """
    if not images:
        raise ValueError("a sheet needs at least one image")
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = (max(image.shape[side] for image in images) + GAP for side in (0, 1))
    sheet = np.full((rows * height + GAP, columns * width + GAP, 3), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        top = GAP + index // columns * height + (height - GAP - image.shape[0]) // 2
        left = GAP + index % columns * width + (width - GAP - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def save_picture(image: np.ndarray, path: Path) -> Path:
    """Writes an (H, W, 3) uint8 RGB image as PNG, see `write_whole`."""
    _, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
    return write_whole(path, data.tobytes())


def write_whole(path: Path, data: bytes) -> Path:
    """Writes a file so that a reader sees the old content or the new one, never a part; its folder is made if missing.

    Raises:
        OSError: The file cannot be written; no partial file is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a rename is atomic only within one file system; the name is ours alone.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _frame(box_xyxy: list[float], size: tuple[int, int]) -> Frame | None:
    """First and last pixels of a box within an image of a height and width; None if it lies outside."""
    x1, y1, x2, y2 = box_xyxy
    height, width = size
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height or x2 < x1 or y2 < y1:
        return None
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    return left, top, max(left, min(width, math.ceil(x2)) - 1), max(top, min(height, math.ceil(y2)) - 1)


def rounded_down(score: float) -> str:
    """Two significant digits below a score in [0, 1], which as a threshold show its box; "0" for 0."""
    if score <= 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(score)) - 1)
    return f"{(math.ceil(score / step - 1e-6) - 1) * step:.2g}"
