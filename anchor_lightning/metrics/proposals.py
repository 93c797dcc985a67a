"""Average recall of a region proposal network's boxes, as COCO defines it for proposals.

Shape letters: B images of a batch, N proposals of an image, T IoU thresholds (0.5 to 0.95), L limits on N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import faster_coco_eval
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from anchor_lightning.metrics.coco import coco_results
from anchor_lightning.metrics.records import check_detections, check_ground_truths
from anchor_lightning.structures import Detections, GroundTruth

_NUM_THRESHOLDS, _AT_50 = 10, 0


class ProposalRecall:
    """The share of boxes that the best proposals of each image find, exact on any number of ranks.

    What pycocotools' `COCOeval` gives as recall with `useCats = 0` and `maxDets = top`, boxes of all sizes: a proposal,
    best score first, takes the ground truth of any class that it overlaps most among those still free, at IoU 0.5,
    0.55, ... 0.95. Equal scores keep their order. Crowds (`GroundTruth.ignore`) need not be found.

    Every rank calls `update` with the images of its own shard, then all ranks call `compute`. Shards may be uneven,
    empty or overlapping, as for `DetectionEvaluator`. Proposals are matched in `update` (about 4 ms for 1,000 of them)
    and not kept, so that a million of them take no memory and nothing but counts travels between ranks.

    Note:
        The paper gives the recall at 50 and at 100 proposals beside its Table 7, and says neither at which IoU nor how
        it matched; `ar_50` and `ar_100` are our reading. Detectron and its successors match by falling overlap, not
        by score, and so find a little more or less.

    Args:
        ground_truths: Every image that may be evaluated; ids positive and unique.
        top: The L limits: so many proposals of an image count, best score first.

    Raises:
        ValueError: No limit, one twice or below 1, or ground truth boxes that `check_ground_truths` refuses.
    """

    def __init__(self, ground_truths: Sequence[GroundTruth], top: Sequence[int] = (50, 100, 300, 1000)) -> None:
        """A metric that has seen no image yet."""
        if not top or len(set(top)) != len(top) or min(top) < 1:
            raise ValueError(f"top must hold limits from 1, at least one and each once, got {list(top)}")
        num_classes = 1 + max(
            (int(ground_truth.labels.max()) for ground_truth in ground_truths if len(ground_truth.labels)), default=0
        )
        check_ground_truths(ground_truths, num_classes)
        self.top = sorted(top)
        self._truths = {ground_truth.image_id: ground_truth for ground_truth in ground_truths}
        self._found: dict[int, np.ndarray] = {}  # by image id, (T, L) int64: ground truth boxes found

    def reset(self) -> None:
        """Forgets all images: call it when an evaluation epoch (a sanity check too) starts."""
        self._found = {}

    def update(self, image_ids: Tensor | Sequence[int], proposals: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Matches the proposals of a batch. An image that was there before keeps what it had.

        Args:
            image_ids: (B,) the `GroundTruth.image_id` of each image.
            proposals: Of each of the B images, boxes (N, 4), `xyxy` in pixels of the stored image, and scores (N,),
                which may be logits; in any order and on any device. N may be 0.

        Raises:
            ValueError: Not one pair an image id, an id without ground truth, shapes that do not fit, or a box or score
                that is not finite. Nothing of the batch is kept then.
        """
        ids = [int(i) for i in image_ids]
        if len(ids) != len(proposals):
            raise ValueError(f"{len(ids)} image ids, but the proposals of {len(proposals)} images")
        unknown = sorted(set(ids) - self._truths.keys())
        if unknown:
            raise ValueError(f"proposals of unknown image ids {unknown[:5]}: the ground truth has no such images")
        batch: dict[int, Detections] = {}
        for image_id, (boxes_xyxy, scores) in zip(ids, proposals, strict=True):
            if scores.ndim != 1 or boxes_xyxy.shape != (len(scores), 4):
                raise ValueError(
                    f"proposals of image {image_id}: boxes {tuple(boxes_xyxy.shape)} and scores "
                    f"{tuple(scores.shape)}; expected (N, 4) and (N,)"
                )
            record = _without_class(boxes_xyxy.detach().cpu(), scores.detach().cpu())
            check_detections(image_id, record, num_classes=1)
            batch.setdefault(image_id, record)
        for image_id in batch.keys() - self._found.keys():
            self._found[image_id] = _count_found(self._truths[image_id], batch[image_id], self.top)

    def compute(self) -> dict[str, float]:
        """The recalls over all images that any rank has updated; images never updated are left out.

        A collective under `torch.distributed`: every rank must call it, each gets the same dict.

        Returns:
            For each K of `top`, rising: `ar_K`, the mean over IoU 0.5 to 0.95, and `recall_iou50_K`, at IoU
            0.5 alone. Fractions in [0, 1]. Empty where there is no ground truth to measure against.
        """
        shards: list[Mapping[int, np.ndarray]] = [self._found]
        if dist.is_available() and dist.is_initialized():
            shards = shards * dist.get_world_size()
            dist.all_gather_object(shards, self._found)
        found = {image_id: counts for shard in reversed(shards) for image_id, counts in shard.items()}
        num_ground_truths = sum(int((~self._truths[image_id].ignore).sum()) for image_id in found)
        if not num_ground_truths:
            return {}
        recall = np.sum(list(found.values()), axis=0) / num_ground_truths  # (T, L)
        result = {f"ar_{limit}": float(value) for limit, value in zip(self.top, recall.mean(0), strict=True)}
        at_50 = zip(self.top, recall[_AT_50], strict=True)
        return result | {f"recall_iou50_{limit}": float(value) for limit, value in at_50}


def _without_class(boxes_xyxy: Tensor, scores: Tensor) -> Detections:
    zeros = torch.zeros(len(scores), dtype=torch.int64)
    return Detections(boxes_xyxy, scores, zeros, zeros)


def _count_found(ground_truth: GroundTruth, proposals: Detections, top: Sequence[int]) -> np.ndarray:
    """How many ground truth boxes of an image the best proposals find: (T, L) int64."""
    # A proposal takes a crowd only where no other ground truth is left to it: without crowds the recall is the same.
    # With `useCats` 0 COCO goes through the ground truth boxes by class, which decides where a proposal overlaps two of
    # them alike.
    order = np.argsort(ground_truth.labels, kind="stable")
    boxes_xyxy = torch.from_numpy(ground_truth.boxes_xyxy[order[~ground_truth.ignore[order]]])
    if not len(boxes_xyxy) or not len(proposals.scores):
        return np.zeros((_NUM_THRESHOLDS, len(top)), dtype=np.int64)
    datasets = []
    for boxes in (_without_class(boxes_xyxy, torch.ones(len(boxes_xyxy))), proposals):
        rows = coco_results(ground_truth.image_id, boxes, [0])
        for number, row in enumerate(rows, start=1):
            row |= {"id": number, "area": 0.0}  # an area that lies among those of all sizes
        dataset = faster_coco_eval.COCO(print_function=_ignore)
        dataset.dataset = {"images": [{"id": ground_truth.image_id}], "categories": [{"id": 0}], "annotations": rows}
        dataset.createIndex()
        datasets.append(dataset)
    evaluation = faster_coco_eval.COCOeval_faster(*datasets, "bbox", print_function=_ignore)
    evaluation.params.maxDets = list(top)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0, 0]  # (T, 1 class, 1 area, L) -> (T, L)
    counts: np.ndarray = np.rint(recall * len(boxes_xyxy)).astype(np.int64)
    return counts


def _ignore(*_: object) -> None:
    """Takes what the library would log."""
