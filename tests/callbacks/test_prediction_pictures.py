"""The detections on a few fixed images: in the run folder, in TensorBoard, as boxes for Weights & Biases."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import ImageDraw
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anchor_lightning import DetectionTask
from anchor_lightning.callbacks import PredictionPictures
from anchor_lightning.callbacks.predictions import SHEET_SIDE, Picture, wandb_boxes
from anchor_lightning.data import COCODataModule
from anchor_lightning.data.dataset import ImageRecord
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.errors import UserError
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.made_data import make_coco

NAMES = ["car", "cat"]
FOUND = Detections(
    torch.tensor([[10.0, 20.0, 30.0, 60.0], [-5.0, 0.0, 128.0, 96.0]]),
    torch.tensor([0.875, 0.5]),
    torch.tensor([1, 0]),
    torch.tensor([3, -1]),
)
GROUND_TRUTH = GroundTruth(
    7, np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]), np.array([0, 1]), np.array([False, True]), np.ones(2)
)

pytestmark = pytest.mark.filterwarnings("ignore:You are using a custom batch sampler")  # it returns every image


def validate(folder: Path, callback: PredictionPictures, **options: Any) -> None:
    seed_everything(0, verbose=False)
    anchors = {"init": [[32.0, 32.0], [20.0, 40.0]]}
    task = DetectionTask(num_classes=2, class_names=NAMES, detector=partial(YOLOv2, width=0.1), anchors=anchors)
    data = COCODataModule(root=str(make_coco(folder / "data")), batch_size=3, image_size=[64, 96], num_workers=0)
    options = {"logger": False, "limit_val_batches": 1.0, "accelerator": "cpu", "callbacks": [callback]} | options
    trainer = Trainer(
        default_root_dir=str(folder / "run"), enable_progress_bar=False, enable_model_summary=False, **options
    )
    trainer.validate(task, datamodule=data, verbose=False)


def test_boxes_for_wandb_by_hand() -> None:
    """The image is shown at half its size."""
    record = ImageRecord(Path("one.jpg"), "one", 96, 128, GROUND_TRUTH)
    boxes = wandb_boxes(Picture(np.zeros((48, 64, 3), np.uint8), record), FOUND, NAMES)
    names = {0: "car", 1: "cat"}
    assert boxes["predictions"]["class_labels"] == names and boxes["ground_truth"]["class_labels"] == names
    first, silent = boxes["predictions"]["box_data"]
    assert first == {
        "position": {"minX": 5.0, "minY": 10.0, "maxX": 15.0, "maxY": 30.0},
        "domain": "pixel",
        "class_id": 1,
        "box_caption": "cat 0.88 #3",
        "scores": {"score": 0.875},
    }
    assert silent["box_caption"] == "car 0.50", "a detector that does not say its anchors"
    ground_truth, difficult = boxes["ground_truth"]["box_data"]
    assert ground_truth["box_caption"] == "car" and difficult["box_caption"] == "cat (ignored)"
    assert ground_truth["position"] == {"minX": 0.5, "minY": 1.0, "maxX": 1.5, "maxY": 2.0}
    assert "scores" not in ground_truth
    for box in (first, silent, ground_truth, difficult):
        assert type(box["class_id"]) is int, "numpy's integers are an error for W&B"
        assert all(type(side) is float for side in box["position"].values())


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written on pictures, in order."""
    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, xy, text, **_: texts.append(text))
    return texts


def test_the_sheet_shows_the_first_images_with_their_boxes_and_says_what_was_found(
    tmp_path: Path, written: list[str]
) -> None:
    """Threshold 0 draws every box of the untrained network, 0.99 none; images are read once; TensorBoard gets both."""
    sheets, texts, read = [], [], []
    tall = SHEET_SIDE * 96 // 128
    callback, logger = PredictionPictures(num_images=2), TensorBoardLogger(str(tmp_path), name="tb")
    for callback.score_threshold in (0.0, 0.99):
        validate(tmp_path, callback, logger=logger)
        sheets.append(cv2.imread(str(tmp_path / "tb" / "version_0" / "predictions.png"))[:, :, ::-1].astype(int))
        texts.append(written[:])
        read.append(dict(callback._pictures))
        written.clear()
    names = ["000000000101.jpg", "000000000102.jpg"]
    assert [picture.record.name for picture in read[0].values()] == names
    assert all(read[1][key] is picture for key, picture in read[0].items())
    assert sheets[0].shape == sheets[1].shape
    height, width = sheets[0].shape[:2]
    assert width == 2 * SHEET_SIDE + 12 and tall + 8 < height < 1.3 * tall
    drawn = (sheets[0] != sheets[1])[4 : 4 + tall, 4 : 4 + SHEET_SIDE].any(axis=(0, 2))
    assert drawn[: SHEET_SIDE // 2].any() and drawn[SHEET_SIDE // 2 :].any()
    (left, top, _, bottom), *_ = read[0][101].record.ground_truth.boxes_xyxy * SHEET_SIDE / 128 + 4
    edge = sheets[1][int((2 * top + bottom) / 3) : int((top + 2 * bottom) / 3), int(left)]
    assert {*edge.flat} == {0, 255}, "dashes at the ground truth"
    stored = cv2.imread(str(tmp_path / "data" / "val2017" / "000000000101.jpg"))[:, :, ::-1]
    first = sheets[1][4 : 4 + tall, 4 : 4 + SHEET_SIDE].astype(np.uint8)
    shown = cv2.resize(first, (128, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - stored).mean() < 16, "the first image of the split"

    everything, nothing = texts
    assert any(re.fullmatch(r"\d+ detections", text) for text in everything)
    assert set(everything[-2:]) == set(NAMES), "the colours of the classes that were found"
    assert set(NAMES) & set(nothing), "the classes of the ground truth"
    assert set(names) < set(nothing)
    assert sum(bool(re.fullmatch(r"no detection of 0\.99 .*\(best 0\.\d+\)", text)) for text in nothing) == 2
    assert nothing[-2].startswith("dashed: ground truth") and nothing[-1].endswith("(0.99 or more)")

    accumulator = EventAccumulator(logger.log_dir)
    accumulator.Reload()
    assert {image.width for image in accumulator.Images("val/predictions")} == {width}


@pytest.mark.parametrize(("num_images", "options"), [(0, {}), (4, {"fast_dev_run": True})])
def test_nothing_is_drawn(tmp_path: Path, num_images: int, options: dict[str, Any]) -> None:
    validate(tmp_path, PredictionPictures(num_images=num_images), **options)
    assert not list(tmp_path.rglob("predictions.png"))


@pytest.mark.parametrize("options", [{"num_images": -1}, {"score_threshold": 1.5}, {"score_threshold": float("nan")}])
def test_bad_options_raise(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be"):
        PredictionPictures(**options)
