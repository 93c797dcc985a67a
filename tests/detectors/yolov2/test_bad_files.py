"""Files of weights and anchors that are no plain files, hold code, or numbers that no network can use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.resnet import ResNet

from anchor_lightning.detectors.backbones import DarkNet19
from anchor_lightning.detectors.torchvision.models import load_backbone
from anchor_lightning.detectors.yolov2.darknet_cfg import read_anchors
from anchor_lightning.detectors.yolov2.darknet_weights import read_backbone


class Evil:
    """Its loading makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.fixture(scope="module")
def network() -> ResNet:
    resnet = resnet18()
    resnet.fc = nn.Identity()
    return resnet


@pytest.mark.parametrize("read", [read_anchors, lambda path: read_backbone(path, DarkNet19(0.02))])
def test_named_pipes_are_refused_at_once(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: cannot be read \(it is no plain file\)"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("anchors", ["0, 1", "-1, 1", "nan, 1", "1e999, 1", "1, 1, inf, 2"])
def test_anchors_that_are_no_shapes(tmp_path: Path, anchors: str) -> None:
    (tmp_path / "x.cfg").write_text(f"[net]\n[region]\nanchors={anchors}\n")
    with pytest.raises(ValueError, match=r"x\.cfg: anchors of \[region\] must be positive"):
        read_anchors(tmp_path / "x.cfg")


def test_a_state_dict_is_not_run_and_its_numbers_are_looked_at(tmp_path: Path, network: ResNet) -> None:
    file = tmp_path / "x.pth"
    torch.save({"conv1.weight": Evil(tmp_path / "evil")}, file)
    with pytest.raises(ValueError, match=r"x\.pth"):
        load_backbone(network, str(file))
    assert not (tmp_path / "evil").exists()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("inf")
    torch.save(state, file)
    before = network.conv1.weight.clone()
    with pytest.raises(ValueError, match=r"x\.pth holds numbers that are not finite, in layer1\.0\.conv1\.weight"):
        load_backbone(network, str(file))
    assert torch.equal(network.conv1.weight, before)
