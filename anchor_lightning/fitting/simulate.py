"""The method without images: the shapes learn from boxes alone, with the real assignment, losses and schedules."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anchor_lightning.anchors.assignment import Distance, assign
from anchor_lightning.anchors.losses import clustering_loss, wh_loss
from anchor_lightning.anchors.schedules import (
    TemperatureSchedule,
    clustering_weight_at,
    learning_rate_at,
    temperature_at,
)
from anchor_lightning.anchors.shapes import AnchorShapes


@dataclass(frozen=True)
class ShapesOnlyOptions:
    """The settings of §4 that concern the shapes; the defaults are the paper's.

    Args:
        temperature: T at step 0; 0 is hard assignment throughout.
        schedule: How T falls.
        warmup_distance: Distance of the assignment while T > 0; `distance` is that afterwards.
        warmup_steps: Steps until T is 0.
        clustering_weight: λ at step 0, which is 0 after `clustering_steps`.
        learning_rate: First step of each stretch -> its rate, on which `lr_mult` is a factor.
        images_per_step: Images of a step, by which the localisation loss is divided.
    """

    temperature: float = 2.0
    schedule: TemperatureSchedule = "linear"
    warmup_distance: Distance = "l2"
    distance: Distance = "iou"
    warmup_steps: int = 1500
    clustering_weight: float = 1.0
    clustering_steps: int = 1500
    learning_rate: dict[int, float] = field(default_factory=lambda: {0: 1e-4, 100: 1e-3})
    lr_mult: float = 1.0
    images_per_step: int = 64


def learn_shapes(
    box_wh: Tensor,
    initial_wh: Tensor,
    steps: int,
    image_size: tuple[int, int],
    boxes_per_image: float,
    options: ShapesOnlyOptions | None = None,
    seed: int = 0,
) -> Tensor:
    """(steps + 1, A, 2) the shapes, in pixels, before training on boxes drawn at random and after each step.

    Args:
        box_wh: (N, 2) boxes in pixels of the network input.
        initial_wh: (A, 2) first shapes in pixels.
        steps: Optimizer steps.
        image_size: Height and width of the network input, for the loss's weight of small boxes.
        boxes_per_image: Mean number of boxes of an image.
        options: The schedule.
        seed: Of the draws.
    """
    options = options or ShapesOnlyOptions()
    generator = torch.Generator().manual_seed(seed)
    shapes = AnchorShapes(len(initial_wh), initial_wh)
    optimizer = torch.optim.SGD([shapes.log_wh], lr=0.0, momentum=0.9)
    num_boxes = max(1, round(options.images_per_step * boxes_per_image))
    mask = torch.ones(1, num_boxes, dtype=torch.bool)
    area = float(image_size[0] * image_size[1])
    history = torch.empty(steps + 1, len(initial_wh), 2)
    history[0] = shapes.wh
    for step in range(steps):
        wh = box_wh[torch.randint(len(box_wh), (num_boxes,), generator=generator)]
        boxes_xyxy = torch.cat([torch.zeros_like(wh), wh], dim=1)[None]  # (1, M, 4); where they lie does not matter
        temperature = temperature_at(step, options.temperature, options.warmup_steps, options.schedule)
        distance = options.warmup_distance if temperature > 0 else options.distance
        assignment = assign(shapes.log_wh, boxes_xyxy, mask, (1, 1), 1, temperature, distance)
        offsets = torch.randn(1, num_boxes, len(initial_wh), 2, generator=generator) * 0.1  # stands in for Δw, Δh
        weight = assignment.delta * (2 - wh.prod(1) / area)[None, :, None]
        loss = wh_loss(offsets, shapes.log_wh, assignment.log_wh, weight) / options.images_per_step
        clustering = clustering_loss(shapes.log_wh, assignment.log_wh, assignment.delta, num_boxes)
        loss = loss + clustering_weight_at(step, options.clustering_weight, options.clustering_steps) * clustering
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, options.learning_rate) * options.lr_mult
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history[step + 1] = shapes.wh
    return history
