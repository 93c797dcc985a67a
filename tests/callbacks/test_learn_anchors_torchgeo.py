"""A client that nobody here wrote: torchgeo's ObjectDetectionTask."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from anchor_lightning import LearnAnchors
from tests.helpers.made_detectors import same

trainers = pytest.importorskip("torchgeo.trainers", reason="torchgeo is not installed: pip install torchgeo")

DOC = Path(__file__).resolve().parents[2] / "docs" / "your_detector.md"
# What plain torchgeo does with the files of a run: no import of this package, nor of what it was trained with.
PLAIN = """
import sys
sys.modules["anchor_lightning"] = None
import torch
from torchgeo.trainers import ObjectDetectionTask
folder, generator = sys.argv[1:]
task = ObjectDetectionTask.load_from_checkpoint(f"{folder}/frozen.ckpt", map_location="cpu").eval()
task.get_submodule(generator).cell_anchors = torch.load(f"{folder}/cell_anchors.pt")
with torch.no_grad():
    torch.save(task(torch.load(f"{folder}/images.pt")), f"{folder}/predictions.pt")
"""


class Scenes(LightningDataModule):
    """Batches in torchgeo's format: one bright rectangle an image."""

    def train_dataloader(self) -> Any:
        return DataLoader([self.batch(seed) for seed in range(3)], batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader([self.batch(8)], batch_size=None)  # type: ignore[arg-type]

    @staticmethod
    def batch(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        images, boxes = torch.rand(2, 3, 128, 128) * 0.2, []
        for image in images:
            x, y, w, h = (int(value) for value in torch.randint(20, 50, (4,)))
            image[:, y : y + h, x : x + 2 * w] = 1.0
            boxes.append(torch.tensor([[x, y, min(128, x + 2 * w), y + h]], dtype=torch.float32))
        return {"image": images, "bbox_xyxy": boxes, "label": [torch.tensor([1]) for _ in boxes]}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("model", "generator"), [("faster-rcnn", "model.rpn.anchor_generator"), ("retinanet", "model.anchor_generator")]
)
def test_torchgeo_learns_and_loads_in_plain_torchgeo(tmp_path: Path, model: str, generator: str) -> None:
    torch.manual_seed(0)
    task = trainers.ObjectDetectionTask(model=model, backbone="resnet18", weights=None, num_classes=3)
    stock = [cells.clone() for cells in task.get_submodule(generator).cell_anchors]
    keys, kinds = task.state_dict().keys(), [type(module) for module in task.modules()]
    learn = LearnAnchors(lr_mult=10)
    trainer = Trainer(max_steps=3, accelerator="cpu", default_root_dir=tmp_path, callbacks=[learn], log_every_n_steps=1)
    trainer.fit(task, datamodule=Scenes())
    cells = task.get_submodule(generator).cell_anchors
    assert any(not torch.equal(a, b) for a, b in zip(stock, cells, strict=True)), "the anchors learn"
    assert task.state_dict().keys() == keys and [type(module) for module in task.modules()] == kinds
    group = trainer.optimizers[0].param_groups[-1]
    assert group["name"] == "anchors" and group["weight_decay"] == 0

    run = Path(str(trainer.log_dir))
    images = Scenes.batch(7)["image"]
    torch.save(images, run / "images.pt")
    subprocess.run([sys.executable, "-c", PLAIN, str(run), generator], cwd=run, check=True, timeout=300)
    with torch.no_grad():
        found = task.eval()(images)
    assert all(len(image["boxes"]) for image in found) and same(found, torch.load(run / "predictions.pt"))


@pytest.mark.timeout(600)
def test_the_documents_lines_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), flags=re.DOTALL)
    (lines,) = [block for block in blocks if "import ObjectDetectionTask" in block]
    options = {"max_steps": 1, "accelerator": "cpu", "default_root_dir": tmp_path, "logger": False}
    exec(lines, {"options": options, "datamodule": Scenes()})
    assert (tmp_path / "frozen.ckpt").exists()
