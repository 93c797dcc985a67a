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

from anchor_lightning import DetectionTask
from anchor_lightning.callbacks import PredictionPictures
from anchor_lightning.callbacks.prediction_pictures import SHEET_SIDE, Picture, wandb_boxes
from anchor_lightning.data import COCODataModule
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.made_data import make_coco

NAMES = ["car", "cat"]
FOUND = Detections(
    torch.tensor([[10.0, 20.0, 30.0, 60.0], [-5.0, 0.0, 128.0, 96.0]]),
    torch.tensor([0.875, 0.5]),
    torch.tensor([1, 0]),
    torch.tensor([3, 0]),
)
GROUND_TRUTH = GroundTruth(
    7,
    np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]),
    np.array([0, 1]),
    np.array([False, True]),
    np.array([4.0, 4.0]),
)

pytestmark = pytest.mark.filterwarnings("ignore:You are using a custom batch sampler")  # it returns every image


def picture(scale: float = 1.0) -> Picture:
    return Picture("one", np.zeros((int(96 * scale), int(128 * scale), 3), np.uint8), (scale, scale), GROUND_TRUTH)


def validate(folder: Path, callback: PredictionPictures, **options: Any) -> Trainer:
    seed_everything(0, verbose=False)
    task = DetectionTask(
        num_classes=2,
        class_names=NAMES,
        detector=partial(YOLOv2, width=0.1),
        anchors={"init": [[32.0, 32.0], [20.0, 40.0]]},
    )
    data = COCODataModule(root=str(make_coco(folder / "data")), batch_size=3, image_size=[64, 96], num_workers=0)
    options = {"logger": False, "limit_val_batches": 1.0} | options
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=str(folder / "run"),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.validate(task, datamodule=data, verbose=False)
    return trainer


def test_boxes_for_wandb_by_hand() -> None:
    boxes = wandb_boxes(picture(), FOUND, NAMES)
    assert boxes["predictions"]["class_labels"] == {0: "car", 1: "cat"}
    assert boxes["predictions"]["box_data"][0] == {
        "position": {"minX": 10.0, "minY": 20.0, "maxX": 30.0, "maxY": 60.0},
        "domain": "pixel",
        "class_id": 1,
        "box_caption": "cat 0.88 #3",
        "scores": {"score": 0.875},
    }
    ground_truth, difficult = boxes["ground_truth"]["box_data"]
    assert ground_truth["box_caption"] == "car" and difficult["box_caption"] == "cat (ignored)"
    assert (
        ground_truth["position"] == {"minX": 1.0, "minY": 2.0, "maxX": 3.0, "maxY": 4.0}
        and "scores" not in ground_truth
    )
    for group in boxes.values():
        for box in group["box_data"]:
            assert type(box["class_id"]) is int, "numpy's integers are an error for W&B"
            assert all(type(side) is float for side in box["position"].values())


def test_a_detector_that_does_not_say_its_anchors() -> None:
    silent = Detections(FOUND.boxes_xyxy, FOUND.scores, FOUND.labels, torch.full((2,), -1))
    assert wandb_boxes(picture(), silent, NAMES)["predictions"]["box_data"][0]["box_caption"] == "cat 0.88"


def test_boxes_follow_an_image_shown_smaller() -> None:
    position = wandb_boxes(picture(0.5), FOUND, NAMES)["predictions"]["box_data"][0]["position"]
    assert position == {"minX": 5.0, "minY": 10.0, "maxX": 15.0, "maxY": 30.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_wandb_is_never_given_a_box_that_is_not_finite(value: float) -> None:
    boxes = FOUND.boxes_xyxy.clone()
    boxes[0, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        wandb_boxes(picture(), Detections(boxes, FOUND.scores, FOUND.labels, FOUND.anchors), NAMES)


def test_the_sheet_shows_the_first_images_with_their_boxes(tmp_path: Path) -> None:
    """Threshold 0 draws every box of the untrained network, threshold 1 none; the ground truth in either case."""
    sheets = []
    tall = SHEET_SIDE * 96 // 128
    for threshold in (0.0, 1.0):
        validate(tmp_path, PredictionPictures(num_images=2, score_threshold=threshold))
        sheets.append(cv2.imread(str(tmp_path / "run" / "predictions.png"))[:, :, ::-1].astype(int))
    assert sheets[0].shape == sheets[1].shape
    height, width = sheets[0].shape[:2]
    assert width == 2 * SHEET_SIDE + 12 and tall + 8 < height < 1.3 * tall
    assert (sheets[0][: tall + 4] != sheets[1][: tall + 4]).any()
    stored = cv2.imread(str(tmp_path / "data" / "val2017" / "000000000101.jpg"))[:, :, ::-1]
    first = sheets[1][4 : 4 + tall, 4 : 4 + SHEET_SIDE].astype(np.uint8)
    shown = cv2.resize(first, (128, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - stored).mean() < 16, "the first image of the split"


def test_the_sheet_says_what_was_found_and_what_frames_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, xy, text, **_: written.append(text))
    validate(tmp_path, PredictionPictures(num_images=2, score_threshold=0.99))
    assert set(NAMES) & set(written), "the classes of the ground truth"
    assert {"000000000101.jpg", "000000000102.jpg"} < set(written)
    nothing = [text for text in written if text.startswith("no detection")]
    assert len(nothing) == 2
    assert all(re.fullmatch(r"no detection of 0\.99 or more \(best 0\.\d+\)", text) for text in nothing)
    assert written[-2:] == ["dashed: ground truth, class on white", "solid: detected, class and score (0.99 or more)"]
    written.clear()
    validate(tmp_path, PredictionPictures(num_images=2, score_threshold=0.0))
    assert any(re.fullmatch(r"\d+ detections", text) for text in written)
    assert set(written[-2:]) == set(NAMES), "the colours of the classes that were found"


def test_tensorboard_gets_the_sheet(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    validate(tmp_path, PredictionPictures(num_images=3), logger=TensorBoardLogger(str(tmp_path), name="tb"))
    (events,) = (tmp_path / "tb").rglob("events.out*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    (image,) = accumulator.Images("val/predictions")
    assert image.width == 2 * SHEET_SIDE + 12
    assert (tmp_path / "tb" / "version_0" / "predictions.png").exists()


@pytest.mark.parametrize(
    ("num_images", "options"),
    [(0, {}), (4, {"fast_dev_run": True}), (4, {"limit_val_batches": 0})],
    ids=["off", "fast_dev_run", "no validation"],
)
def test_nothing_is_drawn(tmp_path: Path, num_images: int, options: dict[str, Any]) -> None:
    validate(tmp_path, PredictionPictures(num_images=num_images), **options)
    assert not list(tmp_path.rglob("predictions.png"))


def test_images_are_read_once(tmp_path: Path) -> None:
    callback = PredictionPictures(num_images=2)
    validate(tmp_path, callback)
    assert [shown.name for shown in callback._pictures.values()] == ["000000000101.jpg", "000000000102.jpg"]
    first = dict(callback._pictures)
    validate(tmp_path, callback)
    assert all(callback._pictures[key] is first[key] for key in first)


@pytest.mark.parametrize("options", [{"num_images": -1}, {"score_threshold": 1.5}, {"score_threshold": float("nan")}])
def test_bad_options_raise(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PredictionPictures(**options)
