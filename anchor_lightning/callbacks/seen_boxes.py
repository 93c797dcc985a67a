"""The boxes that training shows a detector of torchvision's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anchor_lightning.callbacks.shape_recorder import MAX_BOXES


class SeenBoxes:
    """The first 50,000 boxes that training shows a detector, as its own transform gives them.

    They stay on the device until they are asked for.
    """

    def __init__(self) -> None:
        self._boxes: list[Tensor] = []  # (M, 2) pixels, of an image each
        self._num_boxes = 0
        self._handle: Any = None

    def watch(self, detector: nn.Module) -> None:
        """Forgets what it has seen, and sees what `detector` is trained with."""
        self.stop()
        self._boxes, self._num_boxes = [], 0
        if isinstance(transform := getattr(detector, "transform", None), nn.Module):
            self._handle = transform.register_forward_hook(self._see)

    def stop(self) -> None:
        """Sees nothing any more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def wh(self) -> Tensor:
        """(N, 2) widths and heights in pixels of the network input."""
        return torch.cat([torch.empty(0, 2), *(boxes.float().cpu() for boxes in self._boxes)])[:MAX_BOXES]

    def _see(self, transform: nn.Module, _: Any, output: Any) -> None:
        targets = output[1]
        if transform.training and targets is not None and self._num_boxes < MAX_BOXES:
            boxes = [target["boxes"].detach() for target in targets]
            self._boxes += [box[:, 2:] - box[:, :2] for box in boxes]
            self._num_boxes += sum(map(len, boxes))
