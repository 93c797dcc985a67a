"""Textured scenes with four kinds of objects: `draw_scene` places them without a pixel, `paint` makes the image.

Shape letters: N objects of one image, K modes of the box shapes, H W sides of the canvas, h w sides of one object.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from anchor_lightning.structures import GroundTruth

CANVAS: Final = 224
CLASS_NAMES: Final = ("striped ellipse", "checkered rectangle", "ring", "gradient triangle")
SPLITS: Final = ("train", "val", "test")
# Far from every initial shape that ships (160 x 160; 96 x 96, 96 x 288, ...): a shape that ends here has been learned.
MODES: Final = ((26.0, 26.0), (30.0, 72.0), (80.0, 34.0), (60.0, 104.0), (136.0, 108.0))
MAX_COVERED: Final = 0.45
CELL: Final = 32
CURVE: Final = np.linspace(0, 1, 16)[:, None]
BEZIER: Final = np.array([1, 3, 3, 1]) * CURVE ** np.arange(4) * (1 - CURVE) ** np.arange(3, -1, -1)
# Drawing fresh normal noise for every pixel would take longer than all the rest: scenes take windows of one sheet.
NOISE: Final = np.random.default_rng(7).normal(0, 5, (2 * CANVAS, 2 * CANVAS, 3)).round().astype(np.int16)


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene, which touches all four sides of its box.

    Args:
        label: Index into `CLASS_NAMES`.
        x, y: Left and top side of the box in pixels of the canvas.
        w, h: Width and height of the box.
        style: (10,) numbers in [0, 1) from which the painter takes colours, angle and period of the texture.
    """

    label: int
    x: int
    y: int
    w: int
    h: int
    style: np.ndarray


@dataclass(frozen=True)
class Scene:
    """What an image shows.

    Args:
        key: Scene seed, number of the split, index in the split: the seed of everything that is not an object.
        objects: In the order of painting; later ones cover earlier ones.
    """

    key: tuple[int, int, int]
    objects: tuple[SceneObject, ...]

    def ground_truth(self, image_id: int) -> GroundTruth:
        """The boxes of all objects, whole even where another object covers a part."""
        boxes = np.array([(o.x, o.y, o.x + o.w, o.y + o.h) for o in self.objects], dtype=np.float64).reshape(-1, 4)
        labels = np.array([o.label for o in self.objects], dtype=np.int64)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return GroundTruth(image_id, boxes, labels, np.zeros(len(labels), dtype=bool), area)


def draw_scene(scene_seed: int, split: str, index: int) -> Scene:
    """The scene of two to five objects (fewer where no place is free), a pure function of the arguments.

    No two centres lie in the same cell of 32 pixels; later objects cover at most 45 % of the box of an earlier one.
    The seed is not negative, the split one of `SPLITS`, the index 0-based in it.
    """
    key = (scene_seed, SPLITS.index(split), index)
    rng = np.random.default_rng([*key, 0])
    objects: list[SceneObject] = []
    covered: list[float] = []
    cells: set[tuple[int, int]] = set()
    for _ in range(rng.integers(2, 5, endpoint=True)):
        # The shape is fixed before the place is looked for: trying again with another shape would favour small ones.
        log_wh = np.log(MODES[rng.integers(len(MODES))]) + 0.12 * rng.standard_normal(2)
        w, h = np.exp(log_wh).round().clip(8, CANVAS - 8).astype(int).tolist()
        label, style = int(rng.integers(len(CLASS_NAMES))), rng.random(10)
        places = rng.integers(0, (CANVAS - w, CANVAS - h), (40, 2), endpoint=True).tolist()
        for x, y in places:
            cell = (int(x + w / 2) // CELL, int(y + h / 2) // CELL)
            after = [c + _overlap(o, x, y, w, h) for c, o in zip(covered, objects, strict=True)]
            if cell not in cells and max(after, default=0) <= MAX_COVERED:
                objects.append(SceneObject(label, x, y, w, h, style))
                covered = [*after, 0.0]
                cells.add(cell)
                break
    return Scene(key, tuple(objects))


def _overlap(below: SceneObject, x: int, y: int, w: int, h: int) -> float:
    """Share of the box of `below` that another box covers: an upper bound, as the shapes do not fill their boxes."""
    width = min(below.x + below.w, x + w) - max(below.x, x)
    height = min(below.y + below.h, y + h) - max(below.y, y)
    return max(width, 0) * max(height, 0) / (below.w * below.h)


def paint(scene: Scene, *, foreground: bool = True) -> np.ndarray:
    """(224, 224, 3) uint8 RGB, a pure function of a scene; with `foreground` thin clutter crosses the objects."""
    rng = np.random.default_rng([*scene.key, 1])
    image = _background(rng)
    for _ in range(rng.integers(5, 11)):
        (_blob, _cross, _line)[rng.integers(3)](image, rng)
    for item in scene.objects:
        _paint_object(image, item)
    if foreground:
        for _ in range(rng.integers(0, 4)):
            _line(image, rng)
    # Uneven light and the noise of a sensor lie over objects and background alike.
    rng = np.random.default_rng([*scene.key, 2])
    light = _stretch(rng.integers(95, 160, (3, 3)).astype(np.uint8))
    image = cv2.multiply(image, cv2.merge([light, light, light]), scale=1 / 128)
    x, y = rng.integers(0, CANVAS, 2)
    return np.asarray(cv2.add(image, NOISE[y : y + CANVAS, x : x + CANVAS], dtype=cv2.CV_8U))


def _stretch(grid: np.ndarray) -> np.ndarray:
    """A small grid of random values as a smooth field over the canvas."""
    return np.asarray(cv2.resize(grid, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC))


def _background(rng: np.random.Generator) -> np.ndarray:
    """Smooth colour noise of three scales around muted colours; the finer ones often have a grain."""
    base = np.array(colorsys.hsv_to_rgb(rng.random(), 0.1 + 0.35 * rng.random(), 70 + 120 * rng.random()))
    coarse = base + rng.normal(0, 26, (4, 4, 1)) + rng.normal(0, 13, (4, 4, 3))
    image = _stretch(coarse.clip(0, 255).astype(np.uint8))
    grey = np.zeros((CANVAS, CANVAS), dtype=np.float32)
    for cells, strength in ((12, 26), (48, 22)):
        # Longer along one direction: wood, grass, brushed walls; 1 is cloud and gravel.
        stretch = (1.0, 1.0, 3.0, 6.0)[rng.integers(4)]
        rows, columns = (cells, max(2, int(cells / stretch)))[:: 1 if rng.random() < 0.5 else -1]
        grey += _stretch(rng.normal(0, strength * rng.uniform(0.3, 1), (rows, columns)).astype(np.float32))
    fine = grey.astype(np.int16)
    return np.asarray(cv2.add(image, cv2.merge([fine, fine, fine]), dtype=cv2.CV_8U))


def _clutter_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    hue, saturation, value = rng.random(3)
    return colorsys.hsv_to_rgb(hue, 0.7 * saturation, 30 + 210 * value)


def _blob(image: np.ndarray, rng: np.random.Generator) -> None:
    """A rounded patch of one colour, of the size of a small object."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    waves = rng.uniform(0, 0.14, 3) * np.cos(angles[:, None] * (1, 2, 3) + rng.uniform(0, 2 * np.pi, 3))
    radii = rng.uniform(3, 16) * (1 + waves.sum(axis=1))
    outline = rng.uniform(0, CANVAS, 2) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cv2.fillPoly(image, [outline.round().astype(np.int32)], _clutter_colour(rng), lineType=cv2.LINE_AA)


def _cross(image: np.ndarray, rng: np.random.Generator) -> None:
    """Two crossing strokes of one colour: a small distractor that is no object."""
    centre, arm = rng.uniform(0, CANVAS, 2), rng.uniform(4, 13)
    angle, thickness, colour = rng.uniform(0, np.pi), int(rng.integers(2, 5)), _clutter_colour(rng)
    for turn in (0, np.pi / 2):
        step = arm * np.array([np.cos(angle + turn), np.sin(angle + turn)])
        start, end = (tuple(point.round().astype(int).tolist()) for point in (centre - step, centre + step))
        cv2.line(image, start, end, colour, thickness, cv2.LINE_AA)


def _line(image: np.ndarray, rng: np.random.Generator) -> None:
    """A bent line, like a wire or a twig: a cubic Bezier curve."""
    points = BEZIER @ (rng.uniform(0, CANVAS, 2) + np.cumsum(rng.normal(0, 42, (4, 2)), axis=0))
    thickness = int(rng.integers(1, 4))
    cv2.polylines(image, [points.astype(np.int32)], False, _clutter_colour(rng), thickness, cv2.LINE_AA)


def _paint_object(image: np.ndarray, item: SceneObject) -> None:
    """Blend one object into the image; its edges are smooth but nothing leaves its box."""
    w, h, style = item.w, item.h, item.style.tolist()
    u = (np.arange(w, dtype=np.float32) + 0.5) * (2 / w) - 1  # (w,) in (-1, 1)
    v = ((np.arange(h, dtype=np.float32) + 0.5) * (2 / h) - 1)[:, None]  # (h, 1)
    along = np.cos(np.pi * style[0]) * u * (w / 2) + np.sin(np.pi * style[0]) * v * (h / 2)  # (h, w) pixels
    period = max(5.0, (0.14 + 0.1 * style[1]) * min(w, h))
    if item.label == 1:
        columns, rows = u * (w / 2) / period + style[2], v * (h / 2) / period + style[3]
        share = ((np.floor(columns) + np.floor(rows)) % 2).astype(np.float32)
        alpha = np.ones((h, w), dtype=np.float32)
    elif item.label == 3:
        tip_up = v[::-1] if style[2] < 0.5 else v
        # Pixels to the slanted sides. The row that holds the tip is never empty, the opposite one is full: tight.
        inside = ((1 - tip_up) / 2 + 0.5 / h - np.abs(u)) * (w / 2)
        alpha = np.clip(inside + 0.5, 0, 1)
        # A rim as of a road sign: a gradient alone is lost on a smooth background, and learned last by far.
        rim = np.minimum(inside * (h / np.hypot(h, w / 2)), (1 + tip_up) * (h / 2)) - max(2.0, 0.09 * min(w, h))
        share = np.maximum(0.45 * np.clip(0.5 + along / np.hypot(w, h), 0, 1), np.clip(0.5 - rim, 0, 1))
    else:
        radius = np.sqrt(u * u + v * v)
        alpha = np.clip((1 - radius) * (min(w, h) / 2) + 0.5, 0, 1)
        if item.label == 0:
            share = np.clip(np.sin(along * (np.pi / period) + 6 * style[2]) * 3 + 0.5, 0, 1)
        else:
            inner = 0.38 + 0.15 * style[1]
            alpha *= np.clip((radius - inner) * (min(w, h) / 2) + 0.5, 0, 1)
            share = np.clip((radius - (1 + inner) / 2) * 20 + 0.5, 0, 1)
    # One strong colour and one that is always far from it in brightness.
    strong = np.array(colorsys.hsv_to_rgb(style[4], 0.65 + 0.35 * style[5], 150 + 105 * style[6]), dtype=np.float32)
    level = 20 + 40 * style[8] if style[7] < 0.5 else 215 + 40 * style[8]
    plain = np.array(colorsys.hsv_to_rgb(style[9], 0.25, level), dtype=np.float32)
    patch = image[item.y : item.y + h, item.x : item.x + w]
    colours = strong + share[:, :, None] * (plain - strong)
    patch[:] = patch + alpha[:, :, None] * (colours - patch)
