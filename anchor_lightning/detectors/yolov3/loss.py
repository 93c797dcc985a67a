"""The loss of one level of YOLOv3: localisation as in the paper, objectness and classes as in darknet's yolo layer."""

from __future__ import annotations

from typing import Final

from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot, softplus

from anchor_lightning.detectors.yolo.head import NUM_BOX_CHANNELS
from anchor_lightning.detectors.yolo.loss import common_terms
from anchor_lightning.structures import Assignment, DetectionBatch, Predictions

IGNORE_IOU: Final = 0.7  # `ignore_thresh` of yolov3.cfg; its truth_thresh of 1 makes no other anchor a positive


def yolo_loss(
    predictions: Predictions, batch: DetectionBatch, assignment: Assignment, log_wh: Tensor
) -> dict[str, Tensor]:
    """`loss_xy`, `loss_wh`, `loss_objectness` and `loss_class` of a level, sums over the batch divided by its size.

    Objectness and the independent classes have binary cross entropies: the target of the objectness is 1 (YOLOv2's is
    the IoU), and an anchor whose box meets any ground truth with an IoU above 0.7 does not count as no-object. The
    localisation is that of `region_loss`, the paper's Eq. 2-5 times 2 - w h: for width and height this is darknet's,
    too; for the centres darknet's yolo layer leaves out the sigmoid's derivative, which is here.

    Note:
        With hard assignment and no two boxes on one anchor the gradient at the logits is the negative delta of the C
        yolo layer, that of the centres times σ(1 - σ). Colliding boxes all count, as in `region_loss`. There is no pull
        to the prior.

    Args:
        predictions: Raw output of the level.
        batch: Boxes, labels and mask; the images are not read.
        assignment: δ, cells and log sides of the boxes, for the shapes of the level.
        log_wh: (A, 2) log sides of the level's shapes in pixels; gets its gradient from the wh term alone.
    """
    delta = assignment.delta  # (B, M, A)
    common = common_terms(predictions, batch, assignment, log_wh, IGNORE_IOU)
    own_objectness, objectness = common.own[..., 4], common.box_channels[:, :, 4]
    loss_objectness = (common.no_object * softplus(objectness)).sum() - (delta * logsigmoid(own_objectness)).sum()
    logits = common.own[..., NUM_BOX_CHANNELS:]  # (B, M, A, C)
    target = one_hot(batch.labels.clamp_min(0), logits.shape[-1])[:, :, None]
    loss_class = (delta * (softplus(logits) - target * logits).sum(-1)).sum()
    terms = {
        "loss_xy": common.loss_xy,
        "loss_wh": common.loss_wh,
        "loss_objectness": loss_objectness,
        "loss_class": loss_class,
    }
    return {name: term / len(predictions.raw) for name, term in terms.items()}
