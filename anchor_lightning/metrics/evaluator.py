"""The metric of a validation or test epoch: collects detections batch by batch, computes once, on one rank.

Shape letters: B images of a batch, N detections of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import get_args

import torch
import torch.distributed as dist
from torch import Tensor

from anchor_lightning.metrics.coco import Backend, coco_average_precision
from anchor_lightning.metrics.records import check_detections, check_ground_truths
from anchor_lightning.metrics.voc import voc_average_precision
from anchor_lightning.structures import Detections, GroundTruth


@dataclass(frozen=True)
class _Shard:
    """The detections of one rank in as few tensors as possible: pickling four for each image takes seconds.

    Args:
        counts: Image id -> N.
        rows: The images' detections, one after the other; None when the rank saw no image.
    """

    counts: dict[int, int]
    rows: Detections | None


class DetectionEvaluator:
    """VOC and COCO average precision of an evaluation epoch, exact on any number of ranks.

    Every rank calls `update` with the images of its own shard, then all ranks call `compute`, which gathers the
    detections to rank 0, drops second copies of an image, computes there once and hands the numbers to all. Shards may
    be uneven, empty or overlapping. Results do not depend on which rank saw an image, nor in what order.

    The numbers, which the task logs as `val/NAME` and `test/NAME`, follow two conventions:

    - COCO's: `map`, `map_50`, `map_75`, `map_SIZE`, `map_50_SIZE`, the recalls `mar_*` and, for each class, `ap/CLASS`.
      Boxes are continuous (width x2 - x1). A detection, best score first, takes the ground truth of its class that it
      overlaps most among those still free, at IoU 0.5, 0.55, ... 0.95 (of which the mean is taken; `map_50*` and
      `map_75` at one alone). Precision is read at 101 levels of recall. The best 100 detections of an image and class
      count, 1 or 10 for `mar_1` and `mar_10`. Crowds need not be found, and any number of detections count as nothing
      of whose own area that share lies within one. For a size (small up to 32^2 pixels of annotated area, large from
      96^2, medium between) ground truth boxes of other sizes need not be found, and detections that take one, or none
      and are of another size themselves, count as nothing.
    - VOC's, at IoU 0.5: `map_voc07` with `ap_voc07/CLASS` (2007: mean of the precision at 11 levels of recall) and
      `map_voc` with `ap_voc/CLASS` (2010 and later: area under the monotone precision-recall curve). Overlaps count the
      pixels of 1-based corners inclusively (width x2 - x1 + 1). A detection goes to the ground truth that it overlaps
      most, taken or not: a second one on the same ground truth is wrong. All detections count. Difficult ground truth
      boxes need not be found, and a detection that goes to one counts as nothing.

    `GroundTruth.ignore` is crowd to the first and difficult to the second, whatever the data set calls it. In both, a
    class without a ground truth that counts is NaN and left out of the mean, a class with ground truth and without
    detections is 0.

    It is no `torchmetrics.Metric` on purpose: torchmetrics gathers list states tensor by tensor, which hangs or crashes
    when ranks hold different numbers of images, and it counts an image twice that a sampler has padded a shard with.

    Args:
        ground_truths: Every image that may be evaluated; ids positive and unique.
        class_names: C names, unique; position is the label.
        backend: What computes the COCO numbers, see `coco_average_precision`.

    Attributes:
        detections: By image id, what this process has been given since the last reset.

    Raises:
        ValueError: No class names or one twice, an unknown backend, or ground truth boxes that `check_ground_truths`
            refuses.
    """

    def __init__(
        self, ground_truths: Sequence[GroundTruth], class_names: Sequence[str], backend: Backend = "faster_coco_eval"
    ) -> None:
        """An evaluator that has seen no image yet."""
        if not class_names or len(set(class_names)) != len(class_names):
            raise ValueError(f"class_names must be unique and at least one, got {list(class_names)}")
        if backend not in get_args(Backend):
            raise ValueError(f"unknown COCO backend {backend!r}; choose {' or '.join(get_args(Backend))}")
        check_ground_truths(ground_truths, len(class_names))
        self.ground_truths = list(ground_truths)
        self.class_names = list(class_names)
        self.backend: Backend = backend
        self._known_ids = {ground_truth.image_id for ground_truth in ground_truths}
        self.detections: dict[int, Detections] = {}

    def reset(self) -> None:
        """Forgets all detections: call it when an evaluation epoch (a sanity check too) starts."""
        self.detections = {}

    def update(self, image_ids: Tensor | Sequence[int], detections: Sequence[Detections]) -> None:
        """Takes in the detections of a batch, copied to the CPU. An image that was there before keeps what it had.

        Args:
            image_ids: (B,) the `GroundTruth.image_id` of each image.
            detections: B records, boxes in pixels of the stored image, not of the network input; one without boxes
                says that nothing was found.

        Raises:
            ValueError: Not one record an image id, an id without ground truth, a box or score that is not finite, or a
                label outside [0, C). Nothing of the batch is kept then.
        """
        ids = [int(i) for i in image_ids]
        if len(ids) != len(detections):
            raise ValueError(f"{len(ids)} image ids, but the detections of {len(detections)} images")
        unknown = sorted(set(ids) - self._known_ids)
        if unknown:
            raise ValueError(f"detections of unknown image ids {unknown[:5]}: the ground truth has no such images")
        batch: dict[int, Detections] = {}
        for image_id, found in zip(ids, detections, strict=True):
            copied = Detections(*(getattr(found, f.name).detach().to("cpu", copy=True) for f in fields(found)))
            check_detections(image_id, copied, len(self.class_names))
            batch.setdefault(image_id, copied)
        for image_id, copied in batch.items():
            self.detections.setdefault(image_id, copied)

    def compute(self, per_class: bool = False) -> dict[str, float]:
        """The numbers over all images that any rank has updated; images never updated are left out.

        A collective under `torch.distributed`: every rank must call it, each gets the same dict.

        Args:
            per_class: Adds `ap/<class>` (COCO), `ap_voc07/<class>` and `ap_voc/<class>`.

        Returns:
            `COCOResult.summary`, `map_voc07` and `map_voc`, see the class: fractions in [0, 1], NaN where there is no
            ground truth to measure against. The keys are always the same.

        Raises:
            RuntimeError: The computation failed on rank 0; raised on every rank, so that none waits for another.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return self._evaluate(self.detections, per_class)
        is_first = dist.get_rank() == 0
        shards: list[_Shard] | None = [_pack({})] * dist.get_world_size() if is_first else None
        dist.gather_object(_pack(self.detections), shards, dst=0)
        answer: list[dict[str, float] | str] = [""]
        if shards is not None:
            try:
                answer = [self._evaluate(_merge(shards), per_class)]
            except Exception as error:  # whatever it is, the other ranks wait for an answer
                answer, failure = [f"{type(error).__name__}: {error}"], error
        dist.broadcast_object_list(answer, src=0)
        if isinstance(answer[0], str):
            message = f"the evaluation failed on rank 0: {answer[0]}"
            raise RuntimeError(message) from (failure if is_first else None)
        return answer[0]

    def _evaluate(self, detections: Mapping[int, Detections], per_class: bool) -> dict[str, float]:
        ground_truths = [ground_truth for ground_truth in self.ground_truths if ground_truth.image_id in detections]
        num_classes = len(self.class_names)
        coco = coco_average_precision(ground_truths, detections, num_classes, self.backend)
        voc = voc_average_precision(ground_truths, detections, num_classes)
        result = {**coco.summary, "map_voc07": voc.mean_11_point, "map_voc": voc.mean_area}
        if per_class:
            for prefix, values in (("ap", coco.ap), ("ap_voc07", voc.ap_11_point), ("ap_voc", voc.ap_area)):
                result |= {f"{prefix}/{name}": float(v) for name, v in zip(self.class_names, values, strict=True)}
        return result


def _pack(detections: Mapping[int, Detections]) -> _Shard:
    counts = {image_id: len(found.labels) for image_id, found in detections.items()}
    if not counts:
        return _Shard(counts, None)
    columns = (torch.cat([getattr(found, f.name) for found in detections.values()]) for f in fields(Detections))
    return _Shard(counts, Detections(*columns))


def _merge(shards: Sequence[_Shard]) -> dict[int, Detections]:
    """The detections of all ranks by image id; of an image that several ranks saw, the lowest rank's."""
    merged: dict[int, Detections] = {}
    for shard in shards:
        if shard.rows is None:
            continue
        columns = [getattr(shard.rows, f.name).split(list(shard.counts.values())) for f in fields(Detections)]
        for image_id, *row in zip(shard.counts, *columns, strict=True):
            merged.setdefault(image_id, Detections(*row))
    return merged
