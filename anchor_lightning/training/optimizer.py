"""What the optimizer trains, and with which decay and rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from anchor_lightning.anchors import AnchorShapes


def parameter_groups(detector: nn.Module, shapes: AnchorShapes, decay: float, lr_mult: float) -> list[dict[str, Any]]:
    """The groups `network` (kernels, decayed), `network_no_decay` (biases, batch norms) and `anchors` (never decayed).

    Args:
        detector: The network.
        shapes: The owner of the shapes.
        decay: Weight decay of `network`.
        lr_mult: Factor on the learning rate of `anchors`.

    Returns:
        Groups for a torch optimizer, each with `name` and `lr_mult` beside what the optimizer reads.
    """
    kernels: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in detector.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter is not shapes.log_wh:
                is_kernel = isinstance(module, nn.Conv2d | nn.Linear) and name == "weight"
                (kernels if is_kernel else plain).append(parameter)
    return [
        {"name": "network", "params": kernels, "lr_mult": 1.0, "weight_decay": decay},
        {"name": "network_no_decay", "params": plain, "lr_mult": 1.0, "weight_decay": 0.0},
        {"name": "anchors", "params": [shapes.log_wh], "lr_mult": lr_mult, "weight_decay": 0.0},
    ]


def clip_gradients(detector: nn.Module, shapes: AnchorShapes, limit: float, algorithm: str | None) -> None:
    """Clips the network's gradients; those of the shapes are never touched.

    Args:
        detector: The network.
        shapes: The owner of the shapes.
        limit: Of each gradient (`value`), else of their common norm.
        algorithm: `value` or `norm`; the trainer's `gradient_clip_algorithm`.
    """
    parameters = [parameter for parameter in detector.parameters() if parameter is not shapes.log_wh]
    if algorithm == "value":
        nn.utils.clip_grad_value_(parameters, limit)
    else:
        nn.utils.clip_grad_norm_(parameters, limit)
