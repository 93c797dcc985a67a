"""YOLOv2's augmentation: geometry on uint8 images in a single warp, colour on the device."""

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


WHOLE_IMAGE = GeometryParams()
NEUTRAL_COLOUR = np.array([0, 1, 1], dtype=np.float32)


def draw_jitter(rng: np.random.Generator) -> GeometryParams:
    """Crop or expand each side by up to 0.3 of the image, unrounded (unlike the C code), and flip half of the time."""
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


def warp_image(image: np.ndarray, params: GeometryParams, image_size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8, the window of an image stretched bilinearly, the border repeated outside of the image.

    Args:
        image: (h, w, 3) uint8, the stored image at any scale.
        params: The window.
        image_size: H and W in pixels.
    """
    (source_h, source_w), (height, width) = image.shape[:2], image_size
    scale_x, scale_y = params.width * source_w / width, params.height * source_h / height
    offset_x = params.left * source_w
    if params.flip:
        scale_x, offset_x = -scale_x, offset_x + params.width * source_w
    # Pixel centres lie at halves: source + 0.5 = scale * (target + 0.5) + offset.
    offset_y = params.top * source_h
    to_source = np.array([[scale_x, 0, scale_x / 2 + offset_x - 0.5], [0, scale_y, scale_y / 2 + offset_y - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, to_source, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def warp_boxes(
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


def distort_colour(images: Tensor, colour: Tensor) -> Tensor:
    """Images with hue shifted and saturation and value scaled, then clamped to [0, 1] (`distort_image` of the C code).

    Args:
        images: (B, 3, H, W) floating point RGB in [0, 1]; not changed.
        colour: (B, 3), see `DetectionBatch.colour`.
    """
    result = torch.empty_like(images)
    factors = colour.to(images.dtype)[:, :, None, None]  # (B, 3) -> (B, 3, 1, 1)
    # On the CPU the many passes over one image stay in the cache: several times faster than over the batch.
    step = 1 if images.device.type == "cpu" else max(1, len(images))
    for part in zip(images.split(step), factors.split(step), result.split(step), strict=True):
        _distort_into(*part)
    return result


def _distort_into(images: Tensor, factors: Tensor, result: Tensor) -> None:
    # With value V, minimum m, chroma C = V - m: hue in sixths h = ±(1 + (G + B - R - m) / C), with the sign of G - B.
    red, green, blue = images.unbind(1)  # (B, H, W) each
    hue, saturation, exposure = factors.unbind(1)  # (B, 1, 1) each
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
    result.clamp_(0, 1)
