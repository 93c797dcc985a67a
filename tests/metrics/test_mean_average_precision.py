"""VOC's and COCO's metrics through torchmetrics' own interface: by hand, invalid input, and several ranks as one."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from anchor_lightning.errors import UserError
from anchor_lightning.metrics import COCOMeanAveragePrecision, VOCMeanAveragePrecision
from anchor_lightning.metrics.coco import coco_average_precision
from anchor_lightning.metrics.voc import voc_average_precision
from tests.helpers.metric_scenes import found, ground_truth, random_scene, torchmetrics_input

BOX = [10.0, 10.0, 50.0, 50.0]
NAMES = ["cat", "dog", "cow"]
SUMMARY_KEYS = [
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
    *("map_50_small", "map_50_medium", "map_50_large", "map_voc07", "map_voc"),
]
NOT_UPDATED = pytest.mark.filterwarnings("ignore:The ``compute`` method")
CLASSES = [VOCMeanAveragePrecision, COCOMeanAveragePrecision]

Items = list[dict[str, Any]]


def both(classes: Sequence[str] | int = 1, **options: Any) -> MetricCollection:
    return MetricCollection([metric_class(classes, **options) for metric_class in CLASSES])


def item(boxes: Sequence[Sequence[float]], labels: Sequence[int], **columns: Any) -> dict[str, Any]:
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)} | {
        name: torch.tensor(values) for name, values in columns.items()
    }


def numbers(metric: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def found_and_missed() -> tuple[Items, Items]:
    """Two images without ids; the box of the first is found."""
    return [item([BOX], [0], scores=[0.9]), item([], [], scores=[])], [item([BOX], [0]), item([BOX], [0])]


def assert_same(result: dict[str, float], expected: dict[str, float]) -> None:
    """To the last digit, NaN for NaN, keys in order."""
    assert json.dumps(result) == json.dumps(expected)


def test_perfect_detections_score_one() -> None:
    ground_truths = [
        ground_truth(1, [BOX, [100, 100, 300, 300]], [0, 1]),
        ground_truth(2, [[5, 5, 15, 15]], [0]),
        ground_truth(3, [], []),
    ]
    detections = {
        record.image_id: found(record.boxes_xyxy.tolist(), [0.9] * len(record.labels), record.labels.tolist())
        for record in ground_truths
    }
    metrics = both(["cat", "dog"], per_class=True)
    metrics.update(*torchmetrics_input(ground_truths, detections))
    of_classes = [f"{kind}/{name}" for kind in ("ap", "ap_voc07", "ap_voc") for name in ("cat", "dog")]
    assert set(numbers(metrics)) == {*SUMMARY_KEYS, *of_classes}
    assert set(numbers(metrics).values()) == {1.0}


def test_one_wrong_class_by_hand() -> None:
    # Image 1 holds a cat, image 2 a dog that is called a cat with the higher score. Cats: wrong, right, so precision
    # 1/2 at recall 1, at every level: 1/2. Dogs: 0. Cows have no ground truth. Mean 1/4, whatever the protocol.
    metrics = both(NAMES, per_class=True)
    preds = [item([BOX], [0], scores=[0.6]), item([BOX], [0], scores=[0.9])]
    metrics.update(preds, [item([BOX], [0]), item([BOX], [1])])
    result = numbers(metrics)
    for key in ("map", "map_50", "map_75", "map_medium", "map_50_medium", "map_voc07", "map_voc"):
        assert result[key] == 0.25, key
    for kind in ("ap", "ap_voc07", "ap_voc"):
        assert (result[f"{kind}/cat"], result[f"{kind}/dog"]) == (0.5, 0)
        assert math.isnan(result[f"{kind}/cow"])
    assert math.isnan(result["map_small"]) and math.isnan(result["map_50_large"])


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_those_of_the_two_protocols(seed: int) -> None:
    ground_truths, detections = random_scene(seed)
    metrics = both(NAMES, per_class=True)
    preds, target = torchmetrics_input(ground_truths, detections)
    metrics.update(preds[:4], target[:4])
    metrics.update(preds[4:], target[4:])
    coco, voc = (
        coco_average_precision(ground_truths, detections, 3),
        voc_average_precision(ground_truths, detections, 3),
    )
    expected = dict(coco.summary)
    for kind, values in (("ap", coco.ap), ("ap_voc07", voc.ap_11_point), ("ap_voc", voc.ap_area)):
        expected |= {f"{kind}/{name}": float(value) for name, value in zip(NAMES, values, strict=True)}
    result = numbers(metrics)
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=1e-7, nan_ok=True), name
    for kind in ("voc07", "voc"):
        defined = [result[f"ap_{kind}/{name}"] for name in NAMES if not math.isnan(result[f"ap_{kind}/{name}"])]
        assert result[f"map_{kind}"] == pytest.approx(sum(defined) / len(defined), abs=1e-6)


def test_classes_are_in_the_result_only_when_asked_for_and_need_no_names() -> None:
    metrics, numbered = both(["cat"]), both(2, per_class=True)
    for metric in (metrics, numbered):
        metric.update(*found_and_missed())
    assert set(metrics.compute()) == set(SUMMARY_KEYS)
    assert set(numbered.compute()) - set(SUMMARY_KEYS) == {
        f"{k}/{c}" for k in ("ap", "ap_voc", "ap_voc07") for c in "01"
    }


def test_images_without_ids_all_count_and_of_one_id_the_first_does() -> None:
    preds, target = found_and_missed()
    metrics = both()
    metrics.update(preds, target)
    metrics.update(preds, target)
    assert numbers(metrics)["map_voc"] == 0.5  # two of four
    metrics.reset()
    for order in (slice(None), slice(None, None, -1)):
        metrics.update(preds[order], [truth | {"image_id": torch.tensor(7)} for truth in target])
    assert numbers(metrics)["map_voc"] == numbers(metrics)["map"] == 1


@pytest.mark.parametrize("name", ["difficult", "iscrowd"])
def test_difficult_and_crowd_boxes_need_not_be_found(name: str) -> None:
    metrics = both()
    preds, target = found_and_missed()
    metrics.update(preds, [target[0] | {name: [False]}, target[1] | {name: torch.tensor([1])}])
    assert numbers(metrics)["map_voc"] == numbers(metrics)["map"] == 1


def test_the_area_is_the_given_one_or_width_times_height() -> None:
    for area, size in (({}, "medium"), ({"area": [0.0]}, "small"), ({"area": torch.tensor([1e4])}, "large")):
        metric = COCOMeanAveragePrecision(1)
        metric.update([item([BOX], [0], scores=[0.9])], [item([BOX], [0]) | area])
        assert [name for name in ("small", "medium", "large") if numbers(metric)[f"map_{name}"] == 1] == [size]


@NOT_UPDATED
def test_nothing_updated_is_nan_under_the_same_keys() -> None:
    assert all(math.isnan(value) for value in numbers(both(NAMES, per_class=True)).values())
    assert set(both(NAMES).compute()) == set(SUMMARY_KEYS)


def test_forward_gives_the_batch_and_compute_everything() -> None:
    preds, target = found_and_missed()
    for metrics in (both(), *(metric_class(1) for metric_class in CLASSES)):
        name = "map_voc" if isinstance(metrics, VOCMeanAveragePrecision) else "map"
        assert [float(metrics(preds[:1], target[:1])[name]), float(metrics(preds[1:], target[1:])[name])] == [1, 0]
        assert numbers(metrics)[name] == pytest.approx(51 / 101 if name == "map" else 0.5)
        metrics.update(preds[:1], target[:1])
        assert float(metrics(preds[:1], target[:1])[name]) == 1
        assert numbers(metrics)[name] == pytest.approx(76 / 101 if name == "map" else 0.75)  # three of four


def test_a_collection_keeps_the_states_of_equal_classes_once() -> None:
    metrics = both(2)
    metrics.update(*found_and_missed())
    assert len(metrics.compute_groups) == 1
    different = MetricCollection([VOCMeanAveragePrecision(1), COCOMeanAveragePrecision(2)])
    different.update(*found_and_missed())
    assert len(different.compute_groups) == 2


def test_a_metric_is_copied_pickled_and_moved_with_what_it_holds() -> None:
    metrics = both()
    metrics.update(*found_and_missed())
    expected = numbers(metrics)
    moved = pickle.loads(pickle.dumps(metrics.clone())).to("cpu").half()
    assert_same(numbers(moved), expected)
    moved.update(*found_and_missed())
    assert numbers(moved)["map_voc"] == numbers(metrics)["map_voc"] == 0.5


class Validated(LightningModule):
    """Logs the metrics of two validations as any torchmetrics' metric is."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = both()

    def validation_step(self, batch: tuple[Items, Items], batch_idx: int) -> None:
        self.metrics.update(*batch)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.metrics.compute().items()})
        self.metrics.reset()


def test_lightning_logs_it() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    task = Validated()
    loader = DataLoader([found_and_missed()] * 3, batch_size=None)
    for _ in range(2):
        (logged,) = trainer.validate(task, loader, verbose=False)
        assert logged["val/map_voc"] == 0.5 and logged["val/map"] == pytest.approx(51 / 101)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["boxes", "scores"])
@NOT_UPDATED
def test_a_batch_with_detections_that_are_not_finite_is_rejected(field: str, bad: float) -> None:
    preds, target = torchmetrics_input(
        [ground_truth(i, [BOX], [0]) for i in (41, 42)], {i: found([BOX, BOX], [0.5, 0.4], [0, 0]) for i in (41, 42)}
    )
    preds[1][field][1] = bad
    for metric_class in CLASSES:
        metric = metric_class(1)
        with pytest.raises(UserError, match=rf"image 42: {field} hold NaN"):
            metric.update(preds, target)
        assert all(math.isnan(value) for value in numbers(metric).values()), "nothing of the batch stays"


@pytest.mark.parametrize(
    ("pred", "truth", "message"),
    [
        (item([BOX], [2], scores=[0.5]), item([], []), r"preds of item 0: a label .* \[0, 2\)"),
        (item([BOX], [-1], scores=[0.5]), item([], []), "preds of item 0: a label"),
        (item([BOX], [0, 1], scores=[0.5, 0.5]), item([], []), "2 labels, but boxes"),
        (item([BOX], [0], scores=[0.5, 0.5]), item([], []), "1 labels, but scores"),
        (item([], [], scores=[]), item([BOX], [2], image_id=5), "target of image 5: a label"),
        (item([], [], scores=[]), item([BOX], [0], iscrowd=[False, True]), "ignored of shape"),
        (item([], [], scores=[]), item([BOX], [0], area=[1.0, 2.0]), "area of shape"),
        (item([], [], scores=[]), item([[0, 0, math.nan, 5]], [0]), "target of item 0: boxes hold NaN"),
        (item([], [], scores=[]), item([BOX], [0], area=[math.inf]), "area hold NaN"),
        (item([], [], scores=[]), item([], [], image_id=2**60), "2\\^53"),
    ],
)
def test_invalid_images_are_rejected(pred: dict[str, Any], truth: dict[str, Any], message: str) -> None:
    for metric_class in CLASSES:
        with pytest.raises(ValueError, match=message):
            metric_class(2).update([pred], [truth])
        with pytest.raises(ValueError, match="preds of 0 images"):
            metric_class(2).update([], [truth])


@pytest.mark.parametrize("classes", [[], ["cat", "cat"], 0])
def test_classes_must_be_unique_and_present(classes: Any) -> None:
    for metric_class in CLASSES:
        with pytest.raises(UserError, match="classes"):
            metric_class(classes)
