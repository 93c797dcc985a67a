"""Parameter groups, learning rates and seeds by optimizer step, and gradient clipping that leaves the shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anchor_lightning.anchors import learning_rate_at
from anchor_lightning.data.sampler import step_seed


def parameter_groups(
    network: nn.Module,
    log_wh: Tensor,
    decay: float,
    lr_mult: float,
    parts: Mapping[str, tuple[nn.Module, float]] | None = None,
) -> list[dict[str, Any]]:
    """The groups `network` (kernels, decayed), `network_no_decay` (biases, batch norms) and `anchors` (never decayed).

    Frozen parameters are in them too, so that a run can go on with others frozen; the optimizer passes over them.

    Args:
        network: The detector; `log_wh` may be among its parameters.
        log_wh: (A, 2) parameter of the shapes.
        decay: Weight decay of `network`.
        lr_mult: Factor on the learning rate of `anchors`; a group's `lr` is its factor, for `StepwiseLR`.
        parts: Parts of the network with a pair of groups of their own, by name, and their factors.
    """
    decayed = {module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    groups, taken = list[dict[str, Any]](), {log_wh}
    for name, (part, factor) in [*(parts or {}).items(), ("network", (network, 1.0))]:
        own = [parameter for parameter in part.parameters() if parameter not in taken]
        taken.update(own)
        kernels, plain = [p for p in own if p in decayed], [p for p in own if p not in decayed]
        groups.append({"name": name, "params": kernels, "lr": factor, "weight_decay": decay})
        groups.append({"name": f"{name}_no_decay", "params": plain, "lr": factor, "weight_decay": 0.0})
    return [*groups, {"name": "anchors", "params": [log_wh], "lr": lr_mult, "weight_decay": 0.0}]


class StepwiseLR(LambdaLR):
    """Learning rates by optimizer step: the `lr` that each group was built with, times the rate of the step.

    Args:
        optimizer: Of groups whose `lr` is a factor, see `parameter_groups`.
        rates: Gives the rates as they are now: first optimizer step of each stretch -> rate.
    """

    def __init__(self, optimizer: Optimizer, rates: Callable[[], Mapping[int, float]]) -> None:
        super().__init__(optimizer, lambda step: learning_rate_at(step, dict(rates())))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the step of a checkpoint; factors and rates stay those of this run's options."""
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        self.apply()

    def apply(self) -> None:
        """Sets the rates of the present step, after something else has set the optimizer's."""
        for group, factor, rate in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"], group["initial_lr"] = factor * rate(self.last_epoch), factor
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class StepSeed(Callback):
    """Seeds torch once an optimizer step, so that a resumed step samples the proposals that it would have sampled."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the step of an earlier run."""
        self._step = -1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seeds at the first of the batches that a step accumulates."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            torch.manual_seed(step_seed(self._step, trainer.global_rank))


def clip_gradients(network: nn.Module, log_wh: Tensor, limit: float, algorithm: str | None) -> None:
    """Clips the network's gradients, never those of the shapes: each by `limit` (`value`), else their common norm."""
    parameters = [parameter for parameter in network.parameters() if parameter is not log_wh]
    if algorithm == "value":
        nn.utils.clip_grad_value_(parameters, limit)
    else:
        nn.utils.clip_grad_norm_(parameters, limit)
