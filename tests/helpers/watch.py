"""A callback of the tests: what a rank saw and had, step by step."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn


class Watch(Callback):
    """Writes `RANK.json` at the end of fit: a list of a dict a step.

    `images`: the image ids of this rank's batch; `pixels`: a digest of each image as the network gets it; `boxes`: how
    many there are; `weights`: a digest of all parameters after the optimizer step.

    Args:
        folder: Where to.
        freeze_norms: Keep the batch norms in evaluation mode, so that an image's output depends on no other image.
    """

    def __init__(self, folder: str, freeze_norms: bool) -> None:
        self.folder, self.freeze_norms = Path(folder), freeze_norms
        self.steps: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.freeze_norms:
            for module in pl_module.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        pixels = [digest([image]) for image in batch.images]
        self.steps.append({"images": batch.image_ids.tolist(), "pixels": pixels, "boxes": int(batch.mask.sum())})

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.steps[-1]["weights"] = digest(list(pl_module.parameters()))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(self.steps))


def digest(tensors: list[Tensor]) -> str:
    """Of the bits of tensors."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().numpy().tobytes())  # in the order of the indices, whatever the strides
    return sha.hexdigest()[:16]
