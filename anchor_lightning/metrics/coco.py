"""Average precision and recall as COCO defines them, by faster-coco-eval: as pycocotools, in a quarter of the time.

Shape letters: I images, C classes, N boxes of an image; of COCO's arrays: T IoU thresholds (0.5 to 0.95), R recall
levels, A box areas (all, small, medium, large), L limits on the detections an image and class (1, 10, 100).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO
from faster_coco_eval import COCOeval_faster as COCOeval
from torch import Tensor
from torchvision.ops import box_convert

from anchor_lightning.errors import UserError
from anchor_lightning.metrics.base import (
    ImageMetric,
    Items,
    MeanAveragePrecision,
    as_detections,
    first_copies,
    mean_of_defined,
    read_images,
    rows,
)
from anchor_lightning.structures import Detections, GroundTruth

LIMITS: Final = [1, 10, 100]
RECALLS: Final = np.linspace(0, 1, 101)
AT_50, AT_75 = 0, 5
_NUM_THRESHOLDS = 10


class COCOResult(NamedTuple):
    """COCO's numbers for one set; NaN wherever there is no ground truth to measure against.

    Args:
        summary: Fractions in [0, 1]. COCO's twelve: `map` (mean over IoU 0.5 to 0.95), `map_50`, `map_75`, `map_small`
            (area up to 32^2 pixels), `map_medium`, `map_large` (from 96^2), the recalls `mar_1`, `mar_10`, `mar_100`
            (by the limit on detections an image and class), `mar_small`, `mar_medium`, `mar_large`; then
            `map_50_small`, `map_50_medium`, `map_50_large` (the paper's Table 2).
        ap: (C,) float64, each class's part of `map`.
        precision_50: (C, R) float64 at IoU 0.5, the best precision at each of the recalls `RECALLS` or above; 0 where
            the recall is not reached. The mean over R is the class's part of `map_50`.
        scores_50: (C, R) float64, the score of the detection with which the recall is reached; 0 likewise.
    """

    summary: dict[str, float]
    ap: np.ndarray
    precision_50: np.ndarray
    scores_50: np.ndarray


class COCOMeanAveragePrecision(MeanAveragePrecision):
    """COCO's mean average precision as a `torchmetrics.Metric`, the same on any number of ranks.

    `COCOResult.summary` and, for each class, `ap/CLASS` and `ap_50/CLASS`.

    Boxes are continuous (width x2 - x1). A detection, best score first, takes the ground truth of its class
    that it overlaps most among those still free, at IoU 0.5, 0.55, ... 0.95 (of which the mean is taken; `map_50*`,
    `ap_50` and `map_75` at one alone). Precision is read at 101 levels of recall. The best 100 detections of an image
    and class count, 1 or 10 for `mar_1` and `mar_10`. Crowds (`iscrowd` or `difficult`)
    need not be found, and any number of detections count as nothing of whose own area that share lies within one. For a
    size (by annotated area) ground truth boxes of other sizes need not be found, and detections that take one, or none
    and are of another size themselves, count as nothing. A class without a ground truth that counts is NaN and left out
    of the mean; a class with ground truth and without detections is 0.

    Used as `VOCMeanAveragePrecision`; a `torchmetrics.MetricCollection` of both keeps what both need once.

    Args:
        classes: Names of the C classes, position is the label; or C, the names are then the labels.
        per_class: Whether to add the average precision of each class.
        curves: Whether to add `precision_50` and `scores_50` of `COCOResult`, (C, 101) each.
        kwargs: See `torchmetrics.Metric`.
    """

    def __init__(
        self, classes: Sequence[str] | int, per_class: bool = False, curves: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(classes, per_class, **kwargs)
        self.curves = curves

    def average_precision(
        self, ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections]
    ) -> dict[str, float | np.ndarray]:
        """See the class."""
        result = coco_average_precision(ground_truths, detections, len(self.class_names))
        arrays = {"precision_50": result.precision_50, "scores_50": result.scores_50} if self.curves else {}
        of_classes = self.named("ap", result.ap) | self.named("ap_50", result.precision_50.mean(axis=1))
        return {**result.summary, **of_classes, **arrays}


class ProposalRecall(ImageMetric):
    """The share of boxes that the best proposals of each image find, as a `torchmetrics.Metric`.

    What pycocotools' `COCOeval` gives as recall with `useCats = 0` and `maxDets = top`, boxes of all sizes: a proposal,
    best score first, takes the ground truth of any class that it overlaps most among those still free, at IoU 0.5,
    0.55, ... 0.95. Equal scores keep their order. Crowds (`iscrowd` or `difficult`) need not be found.

    The same on any number of ranks. Proposals are matched in `update` (about 4 ms for 1,000 of them) and not kept:
    nothing but counts takes memory and travels between ranks.

    Note:
        The paper gives the recall at 50 and at 100 proposals beside its Table 7, and says neither at which IoU nor how
        it matched; `ar_50` and `ar_100` are our reading. Detectron matches by falling overlap, not by score.

    Args:
        top: The L limits: so many proposals of an image count, best score first.
        kwargs: See `torchmetrics.Metric`.

    Raises:
        UserError: No limit, or one that is below 1 or comes twice.
    """

    def __init__(self, top: Sequence[int] = (50, 100, 300, 1000), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not top or len(set(top)) != len(top) or min(top) < 1:
            raise UserError(f"must hold limits from 1, at least one and each once, got {list(top)}", "top")
        self.top = sorted(top)
        self._width = 2 + _NUM_THRESHOLDS * len(self.top)
        self.add_state("images", [], dist_reduce_fx="cat")  # (I, 2 + T L): id, boxes to find, boxes found

    def update(self, preds: Items, target: Items) -> None:
        """Matches the proposals of a batch; nothing of a batch that is invalid.

        Args:
            preds: Of each image `boxes` (P, 4) in pixels, xyxy, and `scores` (P,), which may be logits.
            target: As for `VOCMeanAveragePrecision`, of any labels.

        Raises:
            UserError: A predicted box or score is not finite.
            ValueError: Something else does not fit, as for `VOCMeanAveragePrecision`.
        """
        images = []
        for image_id, found, boxes in read_images(preds, target, num_classes=None):
            # A proposal takes a crowd only where no other ground truth is left to it: without crowds the recall is the
            # same. COCO goes through the ground truth boxes by class: of two that are overlapped alike it takes one.
            counted = boxes[boxes[:, 5] == 0]
            boxes_xyxy, zeros = counted[counted[:, 4].argsort(stable=True), :4].numpy(), np.zeros(len(counted))
            # All of one class, and of an area that lies among those of all sizes.
            truth = GroundTruth(1, boxes_xyxy, zeros.astype(np.int64), zeros.astype(bool), zeros)
            _, recall, _ = _evaluate([truth], {1: as_detections(found)}, 1, self.top, by_area=False)  # (T, 1, 1, L)
            images.append([image_id, len(zeros), *np.rint(np.nan_to_num(recall) * len(zeros)).flat])
        self.images.append(torch.tensor(images, dtype=torch.float64).reshape(len(images), self._width))

    def compute(self) -> dict[str, Tensor]:
        """For each K of `top`, rising: `ar_K`, the mean over IoU 0.5 to 0.95, and `recall_iou50_K`, at IoU 0.5 alone.

        Fractions in [0, 1] over the images of all ranks; NaN where there is no ground truth to measure against.
        """
        images = rows(self.images, self._width)
        _, num_boxes, *found = images[first_copies(images[:, 0])].sum(0).tolist()
        recall = np.reshape(found, (_NUM_THRESHOLDS, -1)) / (num_boxes or np.nan)
        kinds = {"ar": recall.mean(0), "recall_iou50": recall[AT_50]}
        return self.tensors({f"{kind}_{k}": v[i] for kind, v in kinds.items() for i, k in enumerate(self.top)})


def coco_average_precision(
    ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections], num_classes: int
) -> COCOResult:
    """COCO's average precision and recall, see `COCOMeanAveragePrecision`.

    Args:
        ground_truths: The images to evaluate, valid; `ignore` is COCO's `iscrowd`, `area` decides between small, medium
            and large.
        detections: By image id, boxes in pixels of the stored image (continuous, 0-based, as the ground truth boxes);
            an image without an entry has none. Equal scores keep the order of the image ids, then the order within an
            image.
        num_classes: C > 0.
    """
    precision, recall, scores = _evaluate(ground_truths, detections, num_classes)
    areas = {"small": 1, "medium": 2, "large": 3}
    best = precision[..., -1]  # (T, R, C, A), at most 100 detections
    summary = {"map": best[..., 0], "map_50": best[AT_50, ..., 0], "map_75": best[AT_75, ..., 0]}
    summary |= {f"map_{name}": best[..., a] for name, a in areas.items()}
    summary |= {f"mar_{limit}": recall[..., 0, i] for i, limit in enumerate(LIMITS)}
    summary |= {f"mar_{name}": recall[..., a, -1] for name, a in areas.items()}
    summary |= {f"map_50_{name}": best[AT_50, ..., a] for name, a in areas.items()}
    ap = np.array([mean_of_defined(best[:, :, label, 0]) for label in range(num_classes)])
    means = {name: mean_of_defined(values) for name, values in summary.items()}
    return COCOResult(means, ap, best[AT_50, ..., 0].T, scores[AT_50, ..., 0, -1].T)


def _evaluate(
    ground_truths: Sequence[GroundTruth],
    detections: Mapping[int, Detections],
    num_classes: int,
    limits: Sequence[int] = LIMITS,
    by_area: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """COCO's precision (T, R, C, A, L), recall (T, C, A, L) and scores, as precision; without `by_area` A is 1.

    NaN where there is no ground truth.
    """
    labels = range(num_classes)  # the classes' own numbers serve as categories
    annotations = [
        {"image_id": truth.image_id, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for truth in ground_truths
        for box, label, area, crowd in zip(
            _to_xywh(truth.boxes_xyxy), truth.labels.tolist(), truth.area.tolist(), truth.ignore.tolist(), strict=True
        )
    ]
    results = [row for image_id, found in detections.items() for row in coco_results(image_id, found, labels)]
    for row in results:
        row["area"] = row["bbox"][2] * row["bbox"][3]
    datasets = []
    for boxes in (annotations, results):
        for number, row in enumerate(boxes, start=1):  # pycocotools takes a match with the number 0 for none
            row["id"] = number
        images = [{"id": truth.image_id} for truth in ground_truths]
        dataset = COCO(print_function=_silent)
        dataset.dataset = {"images": images, "categories": [{"id": label} for label in labels], "annotations": boxes}
        dataset.createIndex()
        datasets.append(dataset)
    evaluation = COCOeval(*datasets, "bbox", print_function=_silent)
    parameters = evaluation.params
    parameters.maxDets = list(limits)
    if not by_area:
        parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    # It writes -1, which must not be averaged.
    arrays = (evaluation.eval[name] for name in ("precision", "recall", "scores"))
    precision, recall, scores = (np.where(array < 0, np.nan, array) for array in arrays)
    return precision, recall, scores


def _silent(*_: object) -> None:
    """Prints nothing, where the library would log its tables."""


def coco_results(image_id: int, detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of an image as COCO results, the rows of the file that the evaluation server takes.

    Nothing is rounded: a file of these rows gives the numbers that `coco_average_precision` gives.

    Args:
        image_id: Of the image.
        detections: N boxes in pixels of the stored image.
        category_ids: (C,) the data set's category of each label.

    Returns:
        N rows of `image_id`, `category_id`, `bbox` (left, top, width and height in pixels) and `score`, in the order of
        `detections`.
    """
    columns = (_to_xywh(detections.boxes_xyxy), detections.labels.tolist(), detections.scores.double().tolist())
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, label, score in zip(*columns, strict=True)
    ]


def _to_xywh(boxes_xyxy: Tensor | np.ndarray) -> list[list[float]]:
    """Rows of left, top, width, height, taken in float64 as from corners in COCO's own files."""
    boxes_xywh: list[list[float]] = box_convert(torch.as_tensor(boxes_xyxy).double(), "xyxy", "xywh").tolist()
    return boxes_xywh
