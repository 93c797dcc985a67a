"""What the metrics share as torchmetrics' metrics: checked input, states that ranks exchange, each image counted once.

Shape letters: I images, N detections of an image, G ground truth boxes of an image, C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from anchor_lightning.errors import UserError
from anchor_lightning.structures import Detections, GroundTruth

Items = Sequence[Mapping[str, Any]]
_NO_ID = float("inf")  # sorts behind all others, and equals itself where torchmetrics compares states


class ImageMetric(Metric):
    """Metric with states of float64 rows on the CPU, the first column of the state `images` the image's id.

    torchmetrics' own exchange fails on ranks without images; rows of any number travel as objects.
    """

    higher_is_better: bool | None = True
    full_state_update: bool = False

    images: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"compute_on_cpu": True, "dist_sync_fn": gather, **kwargs})

    def tensors(self, values: Mapping[str, float | np.ndarray]) -> dict[str, Tensor]:
        """Numbers and arrays as a metric returns them: float32 on its device."""
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in values.items()}


class MeanAveragePrecision(ImageMetric):
    """Metric that keeps all detections and all ground truth until it is computed.

    Args:
        classes: Names of the C classes, position is the label; or C, the names are then the labels.
        per_class: Whether `compute` adds the average precision of each class.
        kwargs: See `torchmetrics.Metric`.

    Raises:
        UserError: No class, or one twice.
    """

    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, classes: Sequence[str] | int, per_class: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_names = list(map(str, range(classes))) if isinstance(classes, int) else list(classes)
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise UserError(f"must be one or more, each once; got {classes}", "classes")
        self.per_class = per_class
        self.add_state("images", [], dist_reduce_fx="cat")  # (I, 3): id, N, G
        self.add_state("preds", [], dist_reduce_fx="cat")  # (sum of N, 6): box, score, label
        self.add_state("target", [], dist_reduce_fx="cat")  # (sum of G, 7): box, label, ignore, area
        # A MetricCollection checks the input of one metric for all that have equal states: those of equal C.
        self.add_state("num_classes", torch.tensor(len(self.class_names)), dist_reduce_fx="max")

    def update(self, preds: Items, target: Items) -> None:
        """Takes in the images of a batch; nothing of a batch that is invalid.

        Args:
            preds: Of each image `boxes` (N, 4) in pixels (continuous, 0-based), xyxy, `scores` (N,) and `labels` (N,).
            target: Of each image `boxes` (G, 4) and `labels` (G,); optionally `difficult` or `iscrowd` (G,), two names
                for boxes that need not be found, `area` (G,) (else width x height), and `image_id`, an integer: of
                images with the same id only the first counts, on whatever rank the others are.

        Raises:
            UserError: A predicted box or score is not finite.
            ValueError: `preds` and `target` differ in length, tensors do not fit together, a label is outside [0, C),
                or the ground truth is not finite.
        """
        images = list(read_images(preds, target, len(self.class_names)))
        self.images.append(rows([torch.tensor([[i, len(pred), len(truth)]]) for i, pred, truth in images], 3))
        self.preds.append(rows([pred for _, pred, _ in images], 6))
        self.target.append(rows([truth for _, _, truth in images], 7))

    def compute(self) -> dict[str, Tensor]:
        """The numbers over the images of all ranks; NaN where there is no ground truth to measure against."""
        if not self._is_synced:
            return self.tensors(self._evaluate())
        # It takes seconds and memory: on one rank, while the others wait, for an error as well.
        answer: list[Any] = [None]
        if dist.get_rank(self.process_group) == 0:
            try:
                answer = [self._evaluate()]
            except Exception as error:
                answer = [error]
        dist.broadcast_object_list(answer, group=self.process_group, group_src=0)
        if isinstance(answer[0], Exception):
            raise answer[0]
        return self.tensors(answer[0])

    def _evaluate(self) -> Mapping[str, float | np.ndarray]:
        images = rows(self.images, 3)
        num_preds, num_targets = images[:, 1:].long().T.tolist()
        preds, target = rows(self.preds, 6).split(num_preds), rows(self.target, 7).split(num_targets)
        ground_truths, detections = [], {}
        for number, i in enumerate(first_copies(images[:, 0]), start=1):
            boxes, (labels, ignore, area) = target[i][:, :4].numpy(), target[i][:, 4:].numpy().T
            ground_truths.append(GroundTruth(number, boxes, labels.astype(np.int64), ignore.astype(bool), area))
            detections[number] = as_detections(preds[i])
        return self.average_precision(ground_truths, detections)

    @abstractmethod
    def average_precision(
        self, ground_truths: Sequence[GroundTruth], detections: Mapping[int, Detections]
    ) -> Mapping[str, float | np.ndarray]:
        """The numbers of images that are numbered in the order of their ids."""

    def named(self, prefix: str, values: np.ndarray) -> dict[str, float]:
        """`prefix/CLASS` -> the value of each class, if these are asked for."""
        names = self.class_names if self.per_class else []
        return {f"{prefix}/{name}": float(value) for name, value in zip(names, values, strict=False)}


def read_images(preds: Items, target: Items, num_classes: int | None) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Id, (N, 6) and (G, 7) rows of each image of an update; `num_classes` None: labels do not matter."""
    if len(preds) != len(target):
        raise ValueError(f"preds of {len(preds)} images, but target of {len(target)}")
    for position, (pred, truth) in enumerate(zip(preds, target, strict=True)):
        image_id = truth.get("image_id")
        name = f"item {position}" if image_id is None else f"image {int(image_id)}"
        if image_id is not None and abs(int(image_id)) > 2**53:
            raise ValueError(f"{name}: the id must be at most 2^53")
        labels = pred["labels"] if num_classes is not None else [0] * len(pred["scores"])
        ignore = [torch.as_tensor(truth[key]).bool() for key in ("difficult", "iscrowd") if key in truth]
        ignored = torch.stack(ignore).any(0) if ignore else [False] * len(truth["labels"])
        area = {"area": truth["area"]} if "area" in truth else {}
        found = _rows_of(f"preds of {name}", pred["boxes"], scores=pred["scores"], labels=labels)
        boxes = _rows_of(f"target of {name}", truth["boxes"], labels=truth["labels"], ignored=ignored, **area)
        if not area:
            boxes = torch.column_stack([boxes, (boxes[:, 2:4] - boxes[:, :2]).prod(1)])
        for what, label in (("preds", found[:, 5]), ("target", boxes[:, 4])):
            if num_classes is not None and not ((label >= 0) & (label < num_classes)).all():
                raise ValueError(f"{what} of {name}: a label lies outside [0, {num_classes})")
        yield (_NO_ID if image_id is None else int(image_id)), found, boxes


def _rows_of(where: str, boxes: Any, **columns: Any) -> Tensor:
    """(N, 4 + columns) float64 rows; pycocotools would score a box of NaNs as a perfect match."""
    given = {"boxes": boxes, **columns}
    tensors = {name: torch.as_tensor(values).detach().to("cpu", torch.float64) for name, values in given.items()}
    count = len(tensors["labels"])
    if not count and not tensors["boxes"].numel():
        tensors["boxes"] = torch.zeros(0, 4, dtype=torch.float64)  # whatever shape an empty list has become
    for name, values in tensors.items():
        if values.shape != ((count, 4) if name == "boxes" else (count,)):
            raise ValueError(f"{where}: {count} labels, but {name} of shape {tuple(values.shape)}")
        if not values.isfinite().all():
            if "scores" not in columns:
                raise ValueError(f"{where}: {name} hold NaN or infinity")
            cause = "the network's output is broken (look at the loss and the learning rate before this step)"
            raise UserError(f"{where}: {name} hold NaN or infinity; {cause}")
    return torch.column_stack(list(tensors.values()))


def as_detections(preds: Tensor) -> Detections:
    """The record of an image from (N, 6) rows."""
    labels = preds[:, 5].long()
    return Detections(preds[:, :4], preds[:, 4], labels, torch.full_like(labels, -1))


def rows(state: Tensor | Sequence[Tensor], width: int) -> Tensor:
    """(sum of lengths, width) float64 on the CPU, from a state before or after ranks have exchanged it."""
    parts = [state] if isinstance(state, Tensor) else state
    return torch.cat([torch.zeros(0, width, dtype=torch.float64), *(part.cpu() for part in parts)])


def first_copies(image_ids: Tensor) -> list[int]:
    """Positions of the images that count, by rising id: the first of each id, and all without one."""
    sorted_ids, order = image_ids.sort(stable=True)
    # Infinity less infinity is NaN, which is not 0: images without an id are no copies of each other.
    positions: list[int] = order[sorted_ids.diff(prepend=sorted_ids.new_tensor([-torch.inf])) != 0].tolist()
    return positions


def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """What each rank of the group has given, in their order; shapes may differ."""
    shards: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(shards, tensor.cpu(), group)
    return shards


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
