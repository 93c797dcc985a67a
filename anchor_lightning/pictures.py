"""Detections drawn on their images: for the loggers, the run folder and `predict`.

Colours are Okabe and Ito's, which people with colour blindness can tell apart, one for each class in turn; a class also
stands beside each box in words. Shape letters: H, W height and width of an image in pixels, N boxes of the image.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from anchor_lightning.structures import Detections

# Okabe-Ito without black, which is hard to see on photographs; each with the ink that reads best on it.
COLOURS: Final = (
    ("#E69F00", "black"),
    ("#56B4E9", "black"),
    ("#009E73", "white"),
    ("#F0E442", "black"),
    ("#0072B2", "white"),
    ("#D55E00", "white"),
    ("#CC79A7", "black"),
)
PIXELS_PER_LINE, PIXELS_PER_FONT = 250, 42
"""Pixels of the image's longer side for one of line thickness and of letter height."""
MIN_LINE, MIN_FONT = 2, 11
GAP: Final = 4
"""White pixels between the images of a sheet."""


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    show_anchors: bool = False,
    truths_xyxy: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of an image with its detections: a frame in the colour of the class, and `class 0.87` above it.

    Lines and letters grow with the image. The best detections are drawn last and so lie on top. Parts of a box outside
    the image are cut off; a box that lies wholly outside is left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: N boxes in pixels of `image` (continuous, 0-based), in any order.
        class_names: C names; position is the label.
        show_anchors: Adds `#k` for the anchor shape that a box came from.
        truths_xyxy: (M, 4) annotated boxes in pixels of `image`, drawn underneath, in black and white dashes.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The image is not (H, W, 3) uint8, a box or score is not finite, or a label has no name.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an image as (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    check_drawable(detections, len(class_names))
    height, width = image.shape[:2]
    line = max(MIN_LINE, round(max(height, width) / PIXELS_PER_LINE))
    font = _font(max(MIN_FONT, round(max(height, width) / PIXELS_PER_FONT)))
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for box in np.zeros((0, 4)) if truths_xyxy is None else truths_xyxy:
        if (frame := _frame(box.tolist(), width, height)) is not None:
            _dashed(draw, frame, max(1, line // 2))
    order = detections.scores.argsort(stable=True).tolist()
    boxes, scores = detections.boxes_xyxy.tolist(), detections.scores.tolist()
    labels, anchors = detections.labels.tolist(), detections.anchors.tolist()
    frames = {index: frame for index in order if (frame := _frame(boxes[index], width, height)) is not None}
    for index, frame in frames.items():
        draw.rectangle(frame, outline=COLOURS[labels[index] % len(COLOURS)][0], width=line)
    # After all frames: none may cross a text.
    for index, frame in frames.items():
        text = f"{class_names[labels[index]]} {scores[index]:.2f}" + (f" #{anchors[index]}" if show_anchors else "")
        _write(draw, text, frame, (width, height), font, COLOURS[labels[index] % len(COLOURS)])
    return np.array(picture)


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


def best_detections(detections: Detections, threshold: float) -> Detections:
    """The detections that score at least `threshold`, in their order."""
    kept = detections.scores >= threshold
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


def _frame(box_xyxy: list[float], width: int, height: int) -> tuple[int, int, int, int] | None:
    """First and last pixels of a box within the image; None if it lies outside."""
    x1, y1, x2, y2 = box_xyxy
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height or x2 < x1 or y2 < y1:
        return None
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    return left, top, max(left, min(width, math.ceil(x2)) - 1), max(top, min(height, math.ceil(y2)) - 1)


def _dashed(draw: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], width: int) -> None:
    """A frame that shows on any ground and that no class's colour looks like."""
    left, top, right, bottom = frame
    dash = 4 * width
    draw.rectangle(frame, outline="black", width=width)
    for x in range(left, right + 1, 2 * dash):
        for y in (top, bottom - width + 1):
            draw.rectangle((x, y, min(x + dash - 1, right), y + width - 1), fill="white")
    for y in range(top, bottom + 1, 2 * dash):
        for x in (left, right - width + 1):
            draw.rectangle((x, y, x + width - 1, min(y + dash - 1, bottom)), fill="white")


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    frame: tuple[int, int, int, int],
    size: tuple[int, int],
    font: ImageFont.FreeTypeFont,
    colours: tuple[str, str],
) -> None:
    """A line on a ground of the frame's colour: above the frame, within it at the image's upper edge."""
    ground, ink = colours
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = 2
    wide, tall = math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad
    x = max(0, min(frame[0], size[0] - wide))
    y = frame[1] - tall if frame[1] >= tall else frame[1]
    draw.rectangle((x, y, x + wide - 1, y + tall - 1), fill=ground)
    draw.text((x + pad - left, y + pad - top), text, fill=ink, font=font)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu along, which has the letters of more languages than PIL's own.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
