"""LightningModules as other people write them: nothing here knows the package. As a script: a fit on two processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from tests.helpers.made_detectors import make_detector, make_images, make_targets

STEPS = 6


class Client(LightningModule):
    """A detector, AdamW over all parameters with weight decay, OneCycleLR."""

    def __init__(self, kind: str = "retinanet", fails_at: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = make_detector(kind)
        self.fails_at = fails_at

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == self.fails_at:
            raise RuntimeError("out of luck")
        torch.manual_seed(self.global_step)  # Faster R-CNN draws positives, and Lightning resumes without the generator
        losses = self.model(*batch)
        self.log_dict(losses)
        return sum(losses.values())  # type: ignore[return-value]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.model(batch[0])
        self.log("area", self.area())

    def area(self) -> float:
        """Of all anchors that the last forward placed, in a double: no rounding when it is logged."""
        cells = torch.cat(self.model.anchor_generator.cell_anchors).double()
        return float((cells[:, 2:] - cells[:, :2]).prod(1).sum().float())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class SGDClient(Client):
    """Two groups over named parameters, SGD, LambdaLR, as lists."""

    def configure_optimizers(self) -> Any:
        backbone = [(n, p) for n, p in self.named_parameters() if "backbone" in n]
        others = [(n, p) for n, p in self.named_parameters() if "backbone" not in n]
        groups = [{"params": backbone, "lr": 1e-4}, {"params": others}]
        optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.9, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class LateClient(Client):
    """Builds its detector in `configure_model`."""

    def __init__(self) -> None:
        super().__init__()
        del self.model

    def configure_model(self) -> None:
        if not hasattr(self, "model"):
            self.model = make_detector("retinanet")


class SetupClient(LateClient):
    """Builds its detector in `setup`, which comes after the callbacks' own."""

    def setup(self, stage: str) -> None:
        LateClient.configure_model(self)


def loader(num: int = STEPS, seed: int = 0) -> DataLoader[Any]:
    """`num` batches of two images with a box and two boxes."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for index in range(num):
        corner, side = torch.rand(3, 2, generator=generator) * 30, 20 + torch.rand(3, 2, generator=generator) * 40
        rows = torch.cat([corner, corner + side], 1).tolist()
        batches.append((make_images(seed + index), make_targets(rows[:1], rows[1:])))
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A trainer as people make it."""
    if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        callbacks = (*callbacks, ModelCheckpoint(every_n_train_steps=2, save_top_k=-1, save_last=True))
    options = {"max_steps": STEPS, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1} | options
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(logger=CSVLogger(folder), callbacks=[LearningRateMonitor(), *callbacks], **quiet, **options)


def keeps_shapes(of: list[Any], read: Callable[[Any], Any]) -> Callback:
    """A callback that reads something off the module at each step."""
    return LambdaCallback(on_train_batch_start=lambda trainer, module, *_: of.append(read(module)))


if __name__ == "__main__":
    from anchor_lightning import LearnAnchors, anchor_shapes

    folder = Path(sys.argv[1])
    for kind, shared in ("retinanet", False), ("retinanet", True), ("fpn", True), ("ssd", False):
        client, shapes = Client(kind), list[Any]()
        keeper = keeps_shapes(shapes, lambda module: anchor_shapes(module.model).wh.detach().clone())
        learn = LearnAnchors(soft_start=1.0, soft_steps=3, share_levels=shared, bound_octaves=0.5)
        two = trainer(folder, keeper, learn, devices=2, strategy="ddp")
        two.fit(client, loader(num=2 * STEPS))
        name = f"{kind}{'-shared' * shared}.rank{two.global_rank}.pt"
        torch.save(client.state_dict() | {"shapes": torch.stack(shapes)}, folder / name)
