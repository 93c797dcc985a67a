"""Options of the backbones, and what goes with which."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

from anchor_lightning.detectors.torchvision.models import CHANNELS
from anchor_lightning.errors import UserError


@dataclass(frozen=True)
class TimmOptions:
    """Options of a timm backbone, as of `FasterRCNN`."""

    freeze_backbone: int | Literal["all"] = 0
    freeze_norms: bool | None = None
    backbone_lr_mult: float = 1.0

    def of_backbone(self, pretrained: bool) -> TimmOptions:
        """What holds for a timm network; a `UserError` for a factor out of range."""
        if self.backbone_lr_mult < 0:
            raise UserError(f"{self.backbone_lr_mult} must be 0 or more", argument="backbone_lr_mult")
        return self if self.freeze_norms is not None else replace(self, freeze_norms=pretrained)

    def check_not_given(self) -> None:
        """Raises a `UserError` for an option that a backbone of torchvision's does not take."""
        for name, value in asdict(self).items():
            if value != getattr(TimmOptions, name):
                reason = "is for a backbone of timm; of torchvision's, with weights, the first stages are frozen"
                raise UserError(f"{value} {reason}", argument=name)


def default_channels(backbone: str) -> int:
    """Channels of the pyramid over a backbone where they are not given."""
    return 64 if backbone == "small" else CHANNELS


def channels_of(backbone: str, given: int | None) -> int:
    """Channels of the pyramid over a backbone; a `UserError` where those given cannot be divided into 32 groups."""
    if given is None:
        return default_channels(backbone)
    if given < 32 or given % 32:
        raise UserError(f"{given} must be a multiple of 32", argument="pyramid_channels")
    return given


def stated_channels(backbone: str, channels: int) -> int | None:
    """What a checkpoint says of the channels: None for the default, as checkpoints of before do."""
    return None if channels == default_channels(backbone) else channels
