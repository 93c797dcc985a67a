"""What the networks of the YOLO detectors have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from anchor_lightning.detectors.backbones import Backbone
from anchor_lightning.detectors.yolo.head import RegionHead
from anchor_lightning.structures import Predictions


class YOLONetwork(nn.Module, ABC):
    """Base class of the networks: a backbone, and a head with one or more levels; it holds no anchors."""

    backbone: Backbone

    @abstractmethod
    def levels(self, images: Tensor) -> list[Predictions]:
        """Raw predictions for (B, 3, H, W) RGB images in [0, 1], the smallest stride first; H, W multiples of 32."""

    @property
    def heads(self) -> list[RegionHead]:
        """The last convolution of each level, in the order of darknet's files: the largest stride first."""
        return [module for module in self.modules() if isinstance(module, RegionHead)]

    def fold(self) -> None:
        """Folds the batch norms without shift away, in place, for inference and export."""
        for head in self.heads:
            head.fold()
