"""VOC's and COCO's metrics, and proposals' recall, through torchmetrics' own interface; invalid input."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torchmetrics import MetricCollection

from anchor_lightning.errors import UserError
from anchor_lightning.metrics import COCOMeanAveragePrecision, ProposalRecall, VOCMeanAveragePrecision
from anchor_lightning.metrics.coco import coco_average_precision
from anchor_lightning.metrics.voc import voc_average_precision
from tests.helpers.metric_scenes import BOX, found, ground_truth, numbers, random_scene, torchmetrics_input
from tests.helpers.pycocotools_reference import TWELVE

NAMES = ["cat", "dog", "cow"]
SUMMARY_KEYS = {*TWELVE, "map_50_small", "map_50_medium", "map_50_large", "map_voc07", "map_voc"}
NOT_UPDATED = pytest.mark.filterwarnings("ignore:The ``compute`` method")
CLASSES = [VOCMeanAveragePrecision, COCOMeanAveragePrecision]

Items = list[dict[str, Any]]


def both(classes: Sequence[str] | int = 1, **options: Any) -> MetricCollection:
    return MetricCollection([metric_class(classes, **options) for metric_class in CLASSES])


def item(boxes: Sequence[Sequence[float]], labels: Sequence[int], **columns: Any) -> dict[str, Any]:
    return {name: torch.tensor(values) for name, values in {"boxes": boxes, "labels": labels, **columns}.items()}


def found_and_missed() -> tuple[Items, Items]:
    """Two images without ids; the box of the first is found."""
    return [item([BOX], [0], scores=[0.9]), item([], [], scores=[])], [item([BOX], [0]), item([BOX], [0])]


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_the_two_protocols(seed: int) -> None:
    ground_truths, detections = random_scene(seed)
    metrics = both(NAMES, per_class=True)
    preds, target = torchmetrics_input(ground_truths, detections)
    metrics.update(preds[:4], target[:4])
    metrics.update(preds[4:], target[4:])
    coco = coco_average_precision(ground_truths, detections, 3)
    voc = voc_average_precision(ground_truths, detections, 3)
    expected = dict(coco.summary)
    ap_50 = coco.precision_50.mean(axis=1)
    kinds = (("ap", coco.ap), ("ap_50", ap_50), ("ap_voc07", voc.ap_11_point), ("ap_voc", voc.ap_area))
    for kind, values in kinds:
        expected |= {f"{kind}/{name}": float(value) for name, value in zip(NAMES, values, strict=True)}
        defined = values[~torch.tensor(values).isnan().numpy()]
        expected[kind.replace("ap", "map", 1)] = float(defined.mean())
    assert numbers(metrics) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@NOT_UPDATED
def test_keys_are_the_same_whatever_was_updated_and_classes_need_no_names() -> None:
    numbered = both(2, per_class=True)
    of_classes = {f"{kind}/{label}" for kind in ("ap", "ap_50", "ap_voc", "ap_voc07") for label in "01"}
    nothing = numbers(numbered)
    assert set(nothing) == SUMMARY_KEYS | of_classes and all(math.isnan(value) for value in nothing.values())
    numbered.update(*found_and_missed())
    assert set(numbers(numbered)) == set(nothing)
    assert set(numbers(both(NAMES))) == SUMMARY_KEYS


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
    just_medium = {"area": torch.tensor([32**2 + 1e-6], dtype=torch.float64)}  # in float32 it would be small, too
    given = [({}, "medium"), ({"area": [0.0]}, "small"), ({"area": torch.tensor([1e4])}, "large")]
    for area, size in (*given, (just_medium, "medium")):
        metric = COCOMeanAveragePrecision(1)
        metric.update([item([BOX], [0], scores=[0.9])], [item([BOX], [0]) | area])
        assert [name for name in ("small", "medium", "large") if numbers(metric)[f"map_{name}"] == 1] == [size]


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
    different = MetricCollection([VOCMeanAveragePrecision(1), COCOMeanAveragePrecision(2)])
    for metrics, groups in ((both(2), 1), (different, 2)):
        metrics.update(*found_and_missed())
        assert len(metrics.compute_groups) == groups


def test_a_metric_is_copied_pickled_and_moved_with_what_it_holds() -> None:
    metrics = both()
    metrics.update(*found_and_missed())
    moved = pickle.loads(pickle.dumps(metrics.clone())).to("cpu").half()
    assert numbers(moved) == pytest.approx(numbers(metrics), rel=0, abs=0, nan_ok=True)
    moved.update(*found_and_missed())
    assert numbers(moved)["map_voc"] == numbers(metrics)["map_voc"] == 0.5


def test_detections_in_half_precision_and_with_gradients_are_read() -> None:
    pred = {"boxes": torch.tensor([BOX]).bfloat16().requires_grad_(), "scores": torch.tensor([0.5]).half()}
    for metric, key in ((both(), "map_voc"), (both(), "map"), (ProposalRecall(), "ar_50")):
        metric.update([pred | {"labels": torch.tensor([0])}], [item([BOX], [0])])
        assert numbers(metric)[key] == 1


@pytest.mark.parametrize("make", [*(partial(metric_class, 1) for metric_class in CLASSES), ProposalRecall])
@pytest.mark.parametrize("field", ["boxes", "scores"])
@NOT_UPDATED
def test_a_batch_with_detections_that_are_not_finite_is_rejected(field: str, make: Any) -> None:
    metric = make()
    for bad in (math.nan, math.inf, -math.inf):
        preds, target = torchmetrics_input(
            [ground_truth(i, [BOX]) for i in (41, 42)], {i: found([BOX, BOX], [0.5, 0.4]) for i in (41, 42)}
        )
        preds[1][field][1] = bad
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
    for preds, expected in (([pred], message), ([], "preds of 0 images")):
        with pytest.raises(ValueError, match=expected):
            VOCMeanAveragePrecision(2).update(preds, [truth])


@pytest.mark.parametrize("classes", [[], ["cat", "cat"], 0])
def test_classes_must_be_unique_and_present(classes: Any) -> None:
    with pytest.raises(UserError, match="classes"):
        VOCMeanAveragePrecision(classes)
