"""What `predict` writes is what COCO's evaluation takes, and gives the numbers that `test` logs."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from pycocotools.coco import COCO

from anchor_lightning import DetectionTask
from anchor_lightning.callbacks import PredictionWriter
from anchor_lightning.data import COCODataModule
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.metrics.coco import coco_average_precision
from anchor_lightning.structures import Detections, GroundTruth
from tests.helpers.made_data import make_coco, make_coco_test
from tests.helpers.metric_scenes import BOX, found
from tests.helpers.pycocotools_reference import evaluate, summary

VAL = "instances_val2017.json"
TEST_DEV = {"test_annotations": "annotations/image_info_test-dev2017.json", "test_images": "test2017"}

pytestmark = pytest.mark.filterwarnings("ignore:You are using a custom batch sampler")  # it returns every image


def make_data(root: Path, **options: Any) -> COCODataModule:
    return COCODataModule(root=str(root), batch_size=3, image_size=[96, 128], num_workers=0, **options)


def make_task() -> DetectionTask:
    """An untrained network whose shapes are those of `make_coco`'s boxes: some of its boxes are right by chance."""
    seed_everything(0, verbose=False)
    anchors = {"init": [[w, h] for w in (20.0, 32.0, 44.0) for h in (20.0, 32.0, 44.0)]}
    return DetectionTask(
        num_classes=2, class_names=["car", "cat"], detector=partial(YOLOv2, width=0.1), anchors=anchors
    )


def make_trainer(folder: Path) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, callbacks=[PredictionWriter()], default_root_dir=folder,
        use_distributed_sampler=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def evaluate_file(annotations: Path, predictions: Path) -> dict[str, float]:
    """COCO's twelve numbers of a results file, by pycocotools alone."""
    annotated = COCO(str(annotations))
    return summary(evaluate(annotated, annotated.loadRes(str(predictions))))


def near(ground_truth: GroundTruth, num_classes: int, seed: int) -> Detections:
    """Twelve boxes about the ground truth of an image; scores tie, or differ in the last bit, within it and across."""
    rng = np.random.default_rng(seed)
    num = 12 * (len(ground_truth.labels) > 0)
    which = rng.integers(0, max(1, len(ground_truth.labels)), num)
    sides = ground_truth.area[which, None] ** 0.5
    boxes = ground_truth.boxes_xyxy[which] + rng.normal(0, 0.1, (num, 4)) * sides
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    labels = np.where(rng.random(num) < 0.8, ground_truth.labels[which], rng.integers(0, num_classes, num))
    bits = torch.full((num,), 0.7).view(torch.int32) - torch.from_numpy(rng.integers(0, 4, num)).int()
    scores, order = bits.view(torch.float32).sort(descending=True, stable=True)
    boxes_xyxy = torch.from_numpy(boxes).float()[order]
    return Detections(boxes_xyxy, scores, torch.from_numpy(labels)[order], torch.zeros(num, dtype=torch.int64))


def predict(folder: Path, data: COCODataModule, monkeypatch: Any, detections: dict[int, Detections]) -> Path:
    """Writes given detections by way of the trainer; returns the file."""
    task = make_task()
    monkeypatch.setattr(task, "detect", lambda batch: ([detections[i] for i in batch.image_ids.tolist()], []))
    make_trainer(folder).predict(task, data)
    return folder / "predictions.json"


def assert_same(
    data: COCODataModule, detections: dict[int, Detections], annotations: Path, predictions: Path
) -> dict[str, float]:
    """The metric that `test` uses and COCO's evaluation of the files give the same numbers."""
    computed = coco_average_precision(data.ground_truth("test"), detections, data.num_classes).summary
    expected = evaluate_file(annotations, predictions)
    assert {name: computed[name] for name in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)
    return expected


def test_the_file_gives_the_numbers_that_test_logs(tmp_path: Path) -> None:
    data, task = make_data(make_coco(tmp_path / "coco", num=8)), make_task()
    trainer = make_trainer(tmp_path)
    (logged,) = trainer.test(task, data, verbose=False)
    (validated,) = trainer.validate(task, data, verbose=False)  # the same split, as no other is given for test
    trainer.predict(task, data)
    annotations, predictions = tmp_path / "coco" / "annotations" / VAL, tmp_path / "predictions.json"
    expected = evaluate_file(annotations, predictions)
    assert expected["map_50"] > expected["map"] > 0
    for split, values in (("test", logged), ("val", validated)):  # Lightning logs float32
        assert {name: values[f"{split}/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6, nan_ok=True)

    rows = json.loads(predictions.read_text())
    assert {type(value) for row in rows for value in (row["image_id"], row["category_id"])} == {int}
    assert {row["category_id"] for row in rows} == {3, 17}, "the annotation file's ids, not labels"
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} and len(row["bbox"]) == 4 for row in rows)
    assert all(
        one["image_id"] < two["image_id"] or one["score"] >= two["score"] for one, two in itertools.pairwise(rows)
    )


@pytest.mark.parametrize("seed", range(2))
def test_scores_that_tie_or_nearly_tie_keep_their_order(tmp_path: Path, monkeypatch: Any, seed: int) -> None:
    annotations = make_coco(tmp_path / "coco", num=6) / "annotations" / VAL
    content = json.loads(annotations.read_text())
    content["images"].reverse()  # COCO's own files list images in no order, its evaluation takes them by id
    annotations.write_text(json.dumps(content))
    data = make_data(tmp_path / "coco")
    detections = {t.image_id: near(t, 2, 10 * seed + k) for k, t in enumerate(data.ground_truth("test"))}
    predictions = predict(tmp_path, data, monkeypatch, detections)
    expected = assert_same(data, detections, annotations, predictions)
    assert 0 < expected["map"] < 1
    written = {row["score"] for row in json.loads(predictions.read_text())}
    assert written == {score for d in detections.values() for score in d.scores.double().tolist()}


def test_images_without_annotations_can_be_predicted_but_not_tested(tmp_path: Path, monkeypatch: Any) -> None:
    root = make_coco_test(tmp_path / "coco")  # nothing else is there: neither train nor val
    data, task, trainer = make_data(root, **TEST_DEV), make_task(), make_trainer(tmp_path)
    trainer.predict(task, data)
    rows = COCO(str(root / TEST_DEV["test_annotations"])).loadRes(str(tmp_path / "predictions.json")).anns.values()
    assert {row["image_id"] for row in rows} == {201, 202, 203}
    assert {row["category_id"] for row in rows} == {3, 17}
    with pytest.raises(ValueError, match=r"image_info_test-dev2017\.json holds no 'annotations'"):
        trainer.test(task, data)

    path = predict(tmp_path, data, monkeypatch, dict.fromkeys((201, 202, 203), found([], [])))
    assert json.loads(path.read_text()) == [], "nothing found is an empty list"


def test_images_are_written_by_id_in_whatever_order_they_come_and_categories_count_from_1(tmp_path: Path) -> None:
    writer, trainer, task = (
        PredictionWriter(),
        make_trainer(tmp_path),
        SimpleNamespace(data=SimpleNamespace(num_classes=2)),
    )
    for image_id in (9, 2):
        writer.on_predict_batch_end(trainer, task, (torch.tensor([image_id]), [found([BOX], [0.5], [1])]), None, 0)
    writer.on_predict_end(trainer, task)
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(2, 2), (9, 2)]


def test_real_annotations_are_measured_as_coco_does(shared_data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    # What our reading does to boxes (clipping, dropping) must not move a number.
    root = shared_data / "coco"
    data = COCODataModule(root=str(root), batch_size=64, image_size=32, num_workers=0)
    detections = {t.image_id: near(t, data.num_classes, t.image_id) for t in data.ground_truth("test")}
    predictions = predict(tmp_path, data, monkeypatch, detections)
    assert assert_same(data, detections, root / "annotations" / VAL, predictions)["map"] > 0.1
