"""A client that nobody here wrote: deepforest's LightningModule, whose RetinaNet derives from torchvision's class."""

from __future__ import annotations

import csv
import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from anchor_lightning import LearnAnchors

deepforest = pytest.importorskip("deepforest.main", reason="deepforest is not installed: pip install deepforest")

SIDE = 128
# Without the download of COCO's weights, which deepforest's builder asks for.
OFFLINE = """
import functools, torchvision
detection = torchvision.models.detection
stock = functools.partial(detection.retinanet_resnet50_fpn, weights_backbone=None)
detection.retinanet_resnet50_fpn = lambda weights=None: stock(weights=None)
"""
# What plain deepforest does with the files of a run: no import of this package.
PLAIN = (
    OFFLINE
    + """
import sys
sys.modules["anchor_lightning"] = None
import torch
from deepforest.main import deepforest
folder = sys.argv[1]
module = deepforest.load_from_checkpoint(f"{folder}/frozen.ckpt", map_location="cpu").eval()
module.model.anchor_generator.cell_anchors = torch.load(f"{folder}/cell_anchors.pt")
with torch.no_grad():
    assert len(module.model(torch.rand(1, 3, 128, 128))) == 1
torch.save([module.state_dict(), module.model.anchor_generator.cell_anchors], f"{folder}/plain.pt")
"""
)


def scenes(folder: Path) -> None:
    """Three images of one bright rectangle each, and deepforest's table of boxes."""
    rng = np.random.default_rng(0)
    with (folder / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_path", "xmin", "ymin", "xmax", "ymax", "label"])
        for index in range(3):
            pixels = rng.integers(0, 50, (SIDE, SIDE, 3), dtype=np.uint8)
            x, y, w, h = rng.integers(20, 50, 4)
            pixels[y : y + h, x : x + w] = 255
            Image.fromarray(pixels).save(folder / f"{index}.png")
            table.writerow([f"{index}.png", x, y, x + w, y + h, "Tree"])


@pytest.mark.timeout(600)
def test_deepforest_learns_and_loads_in_plain_deepforest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detection = torchvision.models.detection
    builder = functools.partial(detection.retinanet_resnet50_fpn, weights_backbone=None)
    monkeypatch.setattr(detection, "retinanet_resnet50_fpn", lambda weights=None: builder(weights=None))
    scenes(tmp_path)
    train = {"csv_file": str(tmp_path / "train.csv"), "root_dir": str(tmp_path), "epochs": 1}
    model = {"name": None}
    config = {"model": model, "num_classes": 1, "label_dict": {"Tree": 0}, "train": train, "workers": 0}
    torch.manual_seed(0)
    module = deepforest.deepforest(config_args=config | {"batch_size": 1, "accelerator": "cpu"})
    module.model.transform.min_size = (SIDE,)
    stock = [cells.clone() for cells in module.model.anchor_generator.cell_anchors]
    keys, kinds = module.state_dict().keys(), [type(part) for part in module.modules()]
    learn = LearnAnchors(lr_mult=10)
    module.create_trainer(logger=False, callbacks=[learn], default_root_dir=tmp_path, enable_checkpointing=False)
    module.trainer.fit(module)
    cells = module.model.anchor_generator.cell_anchors
    assert any(not torch.equal(a, b) for a, b in zip(stock, cells, strict=True)), "the anchors learn"
    assert module.state_dict().keys() == keys and [type(part) for part in module.modules()] == kinds

    subprocess.run([sys.executable, "-c", PLAIN, str(tmp_path)], cwd=tmp_path, check=True, timeout=300)
    state, plain_cells = torch.load(tmp_path / "plain.pt")
    assert list(state) == list(keys) and all(torch.equal(state[key], module.state_dict()[key]) for key in keys)
    assert all(torch.equal(a, b) for a, b in zip(plain_cells, cells, strict=True)), "plain deepforest predicts the same"
