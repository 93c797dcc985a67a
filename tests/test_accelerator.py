"""What a training does on an accelerator, as far as a CPU can tell."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anchor_lightning import DetectionTask
from anchor_lightning.anchors import assignment
from anchor_lightning.callbacks import ClusteringDecay, SoftAssignment
from anchor_lightning.detectors import YOLOv2, YOLOv3
from anchor_lightning.detectors.base import Detector
from anchor_lightning.detectors.yolov2.network import YOLOv2Network
from anchor_lightning.detectors.yolov3 import loss as yolov3_loss
from anchor_lightning.structures import DetectionBatch
from anchor_lightning.training.optimizer import clip_gradients
from tests.helpers.tiny_training import make_data, make_task, make_trainer


@pytest.mark.parametrize("compiles", [True, False])
def test_compilation_on_a_cpu_is_warned_of(
    tmp_path: Path, compiles: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(YOLOv2Network, "compile", lambda network: compiled.append(type(network).__name__))
    task = make_task(detector=partial(YOLOv2, width=0.1, prior_images=0, compile=compiles))
    make_trainer(tmp_path, max_steps=1).fit(task, datamodule=make_data())
    said = [str(warning.message) for warning in recwarn if "compile: on a CPU" in str(warning.message)]
    assert len(said) == compiles and compiled == ["YOLOv2Network"] * compiles


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for the device: values that Python reads, and sizes that depend on them."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in self.READS or by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("detector", [YOLOv2, YOLOv3])
@pytest.mark.parametrize("temperature", [2.0, 0.0])
def test_a_step_asks_the_device_for_no_value(
    tmp_path: Path, detector: type[Detector], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, loss and clipping."""
    waits = Waits()
    for module in (assignment, yolov3_loss):  # on a CPU torch's own looks whether all indices are in the range
        monkeypatch.setattr(module, "one_hot", lambda index, num: (index[..., None] == torch.arange(num)).long())

    class Watched(DetectionTask):
        def training_step(self, batch: DetectionBatch, batch_idx: int) -> Any:
            with waits:
                return super().training_step(batch, batch_idx)

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            with waits:
                clip_gradients(self.detector, self.shapes.log_wh, 10.0, "norm")

    callbacks = [SoftAssignment(start=temperature, steps=4), ClusteringDecay(start=1.0, steps=4)]
    task = make_task(Watched, detector=partial(detector, width=0.1))
    make_trainer(tmp_path, max_steps=2, callbacks=callbacks).fit(task, datamodule=make_data())
    assert waits.seen == []
    with waits:
        assert bool((torch.arange(3)[torch.arange(3) > 0] > 0).all())
    assert waits.seen == ["index", "_local_scalar_dense"], "the test itself sees such things"


def test_the_optimizer_of_a_gpu_is_fused_but_where_it_would_unscale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake device: the optimizer is built, and never stepped."""
    for device, precision, fused in (
        ("cuda", "32-true", True),
        ("cuda", "bf16-mixed", True),
        ("cuda", "16-mixed", None),
        ("cpu", "32-true", None),
    ):
        task = make_task()
        monkeypatch.setattr(DetectionTask, "device", torch.device(device))
        monkeypatch.setattr(DetectionTask, "trainer", SimpleNamespace(precision=precision))
        monkeypatch.setattr(DetectionTask, "_start", lambda task: None)
        configured: Any = task.configure_optimizers()
        assert [group["fused"] for group in configured["optimizer"].param_groups] == [fused] * 5
