"""Detections drawn on their images: for the loggers, the run folder and `predict`.

A colour stands for a class, or for an anchor shape where these are shown; texts beside the boxes say the rest, as far
as there is room. Shape letters: H, W height and width of an image in pixels, N boxes of the image, M boxes of its
ground truth, A anchor shapes, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor
from torchvision.utils import make_grid

from anchor_lightning.structures import Detections
from anchor_lightning.visualization.lettering import COLOURS, PLAIN, Colours, Text, strip, text_patch

MAX_LABELS: Final = 20
"""Detections of an image that get a text, and boxes of its ground truth: with more nothing is left of the image."""
PIXELS_PER_LINE, MIN_LINE = 250, 2
"""Pixels of an image's longer side for one of line thickness, and the least thickness."""
NO_ANCHOR: Final = Colours("#888888", "white")
GAP: Final = 4
"""White pixels between the images of a sheet."""

Frame = tuple[int, int, int, int]
"""Pixels of a box: left and top, and the first right of it and below it."""


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
        ground_truth_xyxy: (M, 4) boxes in pixels of `image`, drawn underneath, in black and white dashes.
        ground_truth_labels: M labels, whose names are written on white where detections leave room; none if not given.

    Returns:
        (H, W, 3) uint8 RGB; with `anchors_wh` higher by a strip, whose height depends on W, H and the shapes alone.

    Raises:
        ValueError: The image is not (H, W, 3) uint8, a box or score is not finite, or a label has no name.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an image as (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    check_drawable(detections, len(class_names))
    picture = image.copy()
    height, width = image.shape[:2]
    line = max(MIN_LINE, round(max(height, width) / PIXELS_PER_LINE))
    ground_truth = [_frame(box, picture) for box in ([] if ground_truth_xyxy is None else ground_truth_xyxy.tolist())]
    for frame in filter(None, ground_truth):
        _draw_frame(picture, frame, max(1, line // 2), None)
    frames = [_frame(box, picture) for box in detections.boxes_xyxy.tolist()]
    best_first = detections.scores.argsort(stable=True, descending=True).tolist()
    shown = [(frame, index) for index in best_first if (frame := frames[index]) is not None]
    texts = _texts(detections, class_names, anchors_wh is not None)
    for frame, index in reversed(shown):
        _draw_frame(picture, frame, line, ImageColor.getrgb(texts[index][1].ground))
    # After all frames: none may cross a text.
    taken: list[Frame] = []
    for frame, index in shown[:MAX_LABELS]:
        _write(picture, texts[index], frame, taken)
    num_labelled = len(taken)
    for frame_or_none, label in list(zip(ground_truth, ground_truth_labels, strict=False))[:MAX_LABELS]:
        if frame_or_none is not None:
            _write(picture, (class_names[label], PLAIN), frame_or_none, taken, below=True)
    if anchors_wh is None:
        return picture
    shapes = [(f"#{k} {w:.0f} x {h:.0f}", COLOURS[k % len(COLOURS)]) for k, (w, h) in enumerate(anchors_wh.tolist())]
    count = f"{len(shown)} box{'es' * (len(shown) != 1)}"
    count += f", {num_labelled} of the best with text" * (num_labelled < len(shown))
    # In a line of its own: its digits must not change the height, the same for all frames of a video.
    paragraphs = [[("anchor, width x height at the network input:", PLAIN), *shapes], [(count, PLAIN)]]
    return np.vstack([picture, strip(width, paragraphs, max(height, width))])


def check_drawable(detections: Detections, num_classes: int) -> None:
    """Raises an error for detections that cannot be drawn, which W&B would accept without a word.

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
    """One or more (H, W, 3) uint8 images of any sizes side by side on white, about as many across as down."""
    sides = [max(image.shape[side] for image in images) for side in (0, 1)]
    cells = torch.full((len(images), 3, *sides), 255, dtype=torch.uint8)
    for cell, image in zip(cells, images, strict=True):
        cell[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    grid = make_grid(list(cells), nrow=math.ceil(math.sqrt(len(images))), padding=GAP, pad_value=255)
    return np.asarray(grid.permute(1, 2, 0))


def save_picture(image: np.ndarray, path: Path) -> None:
    """Writes an (H, W, 3) uint8 RGB image in the format of the path's suffix.

    Raises:
        OSError: The file cannot be written.
    """
    _, data = cv2.imencode(path.suffix, np.ascontiguousarray(image[:, :, ::-1]))
    path.write_bytes(data.tobytes())


def rounded_down(score: float) -> str:
    """Two significant digits below a score in [0, 1], which as a threshold show its box; "0" for 0."""
    if score <= 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(score)) - 1)
    return f"{(math.ceil(score / step - 1e-6) - 1) * step:.2g}"


def _texts(detections: Detections, class_names: Sequence[str], show_anchors: bool) -> list[Text]:
    """What stands at each box, and its colours."""
    texts = []
    rows = zip(detections.labels.tolist(), detections.scores.tolist(), detections.anchors.tolist(), strict=True)
    for label, score, anchor in rows:
        text, colours = f"{class_names[label]} {score:.2f}", COLOURS[label % len(COLOURS)]
        if show_anchors:  # -1: the detector does not say
            text, colours = (f"{text} #{anchor}", COLOURS[anchor % len(COLOURS)]) if anchor >= 0 else (text, NO_ANCHOR)
        texts.append((text, colours))
    return texts


def _frame(box_xyxy: list[float], picture: np.ndarray) -> Frame | None:
    """The pixels of a box within a picture, one at least; None if it lies outside."""
    x1, y1, x2, y2 = box_xyxy
    height, width = picture.shape[:2]
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height or x2 < x1 or y2 < y1:
        return None
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    return left, top, max(left + 1, min(width, math.ceil(x2))), max(top + 1, min(height, math.ceil(y2)))


def _draw_frame(picture: np.ndarray, frame: Frame, line: int, colour: tuple[int, ...] | None) -> None:
    """Lines along a box's first and last pixels, in place; without a colour in dashes, which show on any ground."""
    left, top, right, bottom = frame
    for x1, y1, x2, y2 in (
        (left, top, right, min(bottom, top + line)),
        (left, max(top, bottom - line), right, bottom),
        (left, top, min(right, left + line), bottom),
        (max(left, right - line), top, right, bottom),
    ):
        if colour:
            cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, cv2.FILLED)
        else:
            along = np.add.outer(np.arange(y1, y2), np.arange(x1, x2)) - left - top
            picture[y1:y2, x1:x2] = np.where(along // (4 * line) % 2, 0, 255)[:, :, None]


def _write(picture: np.ndarray, text: Text, frame: Frame, taken: list[Frame], below: bool = False) -> None:
    """Writes a text above a box if there is room, else in or beside one of its other corners; in place.

    Args:
        picture: (H, W, 3).
        text: Left out if every place would cover another text.
        frame: Of the box.
        taken: Where texts are; this one's place is added.
        below: Try the box's lower corners instead of the upper ones.
    """
    patch = text_patch(text, max(picture.shape[:2]))[: picture.shape[0], : picture.shape[1]]
    tall, wide = patch.shape[:2]
    left, right = frame[0], frame[2] - wide
    outside, inside = (frame[3], frame[3] - tall) if below else (frame[1] - tall, frame[1])
    for x, y in ((left, outside), (left, inside), (right, outside), (right, inside)):
        x, y = max(0, min(x, picture.shape[1] - wide)), max(0, min(y, picture.shape[0] - tall))
        if all(x >= t[2] or t[0] >= x + wide or y >= t[3] or t[1] >= y + tall for t in taken):
            taken.append((x, y, x + wide, y + tall))
            picture[y : y + tall, x : x + wide] = patch
            return
