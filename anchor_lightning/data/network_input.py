"""From the loader's uint8 images to what the network sees."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from anchor_lightning.data.transforms import distort_colour


class BatchMemory:
    """Memory for the floats of one batch, which serves for the next batch once no tensor refers to it.

    Memory that is new to the process is mapped page by page at the first write: for 64 images of 416 x 416 pixels that
    can take as long as distorting their colours.
    """

    def __init__(self) -> None:
        self._floats = np.empty(0, dtype=np.float32)
        self._lent: Callable[[], object] = lambda: None

    def __reduce__(self) -> tuple[type[BatchMemory], tuple[()]]:
        return type(self), ()  # a copy, here or in another process, has memory of its own

    def take(self, *shape: int) -> Tensor:
        """A float32 tensor of any values, in memory that no other tensor has."""
        size = math.prod(shape)
        if self._lent() is not None or size > len(self._floats):
            self._floats = torch.empty(size, dtype=torch.float32).numpy()
        # A tensor keeps the array that it was made of alive, and so does every view of the tensor.
        lent = self._floats[:size]
        self._lent = weakref.ref(lent)
        return torch.from_numpy(lent).view(shape)


def network_input(images: Tensor, colour: Tensor | None = None, memory: BatchMemory | None = None) -> Tensor:
    """(B, 3, H, W) float32 in [0, 1]: channels_last on the CPU, contiguous elsewhere.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        colour: (B, 3), see `DetectionBatch.colour`; None leaves the colours as they are.
        memory: On the CPU, what the result lies in; without it in memory of its own.
    """
    if images.device.type != "cpu":
        floats = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return floats if colour is None else distort_colour(floats, colour, out=floats)
    num, channels, height, width = images.shape
    result = (memory or BatchMemory()).take(num, height, width, channels)
    pixels = images.permute(0, 2, 3, 1)  # (B, 3, H, W) -> (B, H, W, 3)
    if colour is None:
        torch.div(pixels, 255, out=result)
    else:
        # Image by image: the many passes over one stay in the cache, several times faster than over the batch. OpenCV
        # takes channels apart and puts them together in vector instructions.
        planes = np.empty((channels, height, width), dtype=np.uint8)
        floats = torch.empty(1, channels, height, width, dtype=torch.float32)
        for source, factors, target in zip(pixels, colour[:, None], result, strict=True):
            cv2.split(source.numpy(), list(planes))
            floats.copy_(torch.from_numpy(planes)).div_(255)
            distort_colour(floats, factors, out=floats)
            cv2.merge(list(floats[0].numpy()), target.numpy())
    return result.permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W)
