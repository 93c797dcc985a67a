"""YOLOv2's augmentation: geometry on uint8 images by crop and resize, colour on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

# The loader's processes share the cores out; threads inside each of them only get in each other's way.
cv2.setNumThreads(0)

MIN_BOX_SIDE = 0.001  # smaller shares of the network input are dropped, as fill_truth_detection does


@dataclass(frozen=True)
class GeometryParams:
    """The window of the stored image that becomes the network input, and whether it is mirrored.

    Args:
        left, top: Corner of the window as fractions of the image's width and height; negative outside the image.
        width, height: Size of the window as fractions of the image's, > 0.
        flip: Mirror left and right.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0
    flip: bool = False

    def source_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the whole image that give the window at least `image_size` pixels, never upscaled."""
        return math.ceil(image_size[0] / self.height), math.ceil(image_size[1] / self.width)

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom side at the nearest whole pixels of an image; at least one pixel lies between."""
        left, top = round(self.left * width), round(self.top * height)
        right, bottom = round((self.left + self.width) * width), round((self.top + self.height) * height)
        return left, top, max(left + 1, right), max(top + 1, bottom)

    def on_pixels(self, height: int, width: int) -> GeometryParams:
        """The window with its sides at the nearest whole pixels of an image."""
        left, top, right, bottom = self.pixels(height, width)
        return GeometryParams(left / width, top / height, (right - left) / width, (bottom - top) / height, self.flip)


WHOLE_IMAGE = GeometryParams()
NEUTRAL_COLOUR = np.array([0, 1, 1], dtype=np.float32)


def draw_jitter(rng: np.random.Generator) -> GeometryParams:
    """Crop or expand each side by up to 0.3 of the image, and flip half of the time."""
    left, right, top, bottom = rng.uniform(-0.3, 0.3, size=4).tolist()
    return GeometryParams(left, top, 1 - left - right, 1 - top - bottom, flip=bool(rng.random() < 0.5))


def draw_native_crop(
    rng: np.random.Generator, source_size: tuple[int, int], image_size: tuple[int, int]
) -> GeometryParams:
    """A random crop of `image_size` pixels without scaling (around a smaller image), flipped half of the time."""
    (source_h, source_w), (height, width) = source_size, image_size
    top = int(rng.integers(min(0, source_h - height), max(0, source_h - height), endpoint=True))
    left = int(rng.integers(min(0, source_w - width), max(0, source_w - width), endpoint=True))
    flip = bool(rng.random() < 0.5)
    return GeometryParams(left / source_w, top / source_h, width / source_w, height / source_h, flip)


def draw_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) float32: hue shift in ±0.1, saturation and exposure factors in [1/1.5, 1.5] (`rand_scale` of the C code)."""
    hue = rng.uniform(-0.1, 0.1)
    factors = rng.uniform(1, 1.5, 2)
    factors = np.where(rng.random(2) < 0.5, factors, 1 / factors)
    return np.array([hue, *factors], dtype=np.float32)


def resize_window(image: np.ndarray, params: GeometryParams, image_size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8, the window of an image stretched bilinearly, the border repeated outside of the image.

    Args:
        image: (h, w, 3) uint8, the stored image at any scale.
        params: The window, of which some part lies in the image; its sides are taken at the nearest whole pixels.
        image_size: H and W in pixels.
    """
    (source_h, source_w), (height, width) = image.shape[:2], image_size
    left, top, right, bottom = params.pixels(source_h, source_w)
    window = image[max(top, 0) : bottom, max(left, 0) : right]
    beyond = max(-top, 0), max(bottom - source_h, 0), max(-left, 0), max(right - source_w, 0)
    if any(beyond):
        window = cv2.copyMakeBorder(window, *beyond, cv2.BORDER_REPLICATE)
    stretched = cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(stretched, 1) if params.flip else stretched


def boxes_in_window(
    boxes_xyxy: np.ndarray, source_size: tuple[int, int], params: GeometryParams, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the stored image as the network input shows them, clipped to it.

    Args:
        boxes_xyxy: (N, 4) in pixels of the stored image.
        source_size: Height and width of the stored image in pixels.
        params: The window.
        image_size: H and W in pixels.

    Returns:
        (K, 4) float32 boxes in pixels of the network input, and (N,) bool, which of them are at least `MIN_BOX_SIDE`.
    """
    boxes = boxes_xyxy / np.tile(source_size[::-1], 2)
    boxes = (boxes - np.tile((params.left, params.top), 2)) / np.tile((params.width, params.height), 2)
    if params.flip:
        boxes[:, [0, 2]] = 1 - boxes[:, [2, 0]]
    boxes = boxes.clip(0, 1)
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_SIDE).all(axis=1)
    return (boxes[kept] * np.tile(image_size[::-1], 2)).astype(np.float32), kept


def distort_colour(images: Tensor, colour: Tensor, out: Tensor | None = None) -> Tensor:
    """Images with hue shifted and saturation and value scaled, then clamped to [0, 1] (`distort_image` of the C code).

    Args:
        images: (B, 3, H, W) floating point RGB in [0, 1]; not changed unless they are `out`.
        colour: (B, 3), see `DetectionBatch.colour`.
        out: What the result is written to, of the shape of `images`; a new tensor without it.
    """
    result = torch.empty_like(images) if out is None else out
    # With value V, minimum m, chroma C = V - m: hue in sixths h = ±(1 + (G + B - R - m) / C), with the sign of G - B.
    red, green, blue = images.unbind(1)  # (B, H, W) each
    hue, saturation, exposure = colour.to(images.dtype)[:, :, None, None].unbind(1)  # (B, 1, 1) each
    value, minimum = images.amax(1), images.amin(1)
    chroma = value - minimum
    sixths = (green + blue).sub_(red).sub_(minimum)
    # Where the chroma is 0 the hue is of no account, but must be finite.
    sixths.div_(chroma.clamp_min(torch.finfo(images.dtype).tiny)).add_(1).copysign_(green - blue)
    turns = sixths.div_(6).add_(hue)
    sixths = turns.sub_(turns.floor()).mul_(6)
    value.mul_(exposure)
    chroma.mul_(saturation * exposure)
    torch.sub(value, (sixths - 3).abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma), out=result[:, 0])
    torch.sub(value, (sixths - 2).abs_().sub_(1).clamp_(0, 1).mul_(chroma), out=result[:, 1])
    torch.sub(value, (sixths - 4).abs_().sub_(1).clamp_(0, 1).mul_(chroma), out=result[:, 2])
    return result.clamp_(0, 1)
