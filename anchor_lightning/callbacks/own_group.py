"""A parameter group of their own for the shapes, in optimizers and schedulers that somebody else built."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, Final

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from anchor_lightning.errors import UserError

GROUP: Final = "anchors"  # name of the shapes' parameter group
PER_GROUP: Final = ("_lr", "lrs", "lr_lambdas", "momentums")  # endings of the lists that schedulers keep by group


def add_own_group(optimizers: Iterable[Optimizer], schedulers: Iterable[Any], log_wh: Tensor, lr_mult: float) -> None:
    """Moves the shapes into a last parameter group of their own, `anchors`, without weight decay.

    In all else, schedulers included, it is a copy of the group that they were in, else of the first optimizer's first.

    Args:
        optimizers: Before their first step.
        schedulers: Theirs.
        log_wh: The parameter.
        lr_mult: Factor on the group's learning rate within `step()` alone, as schedulers set every group's anew.

    Raises:
        UserError: There is no optimizer that can have the group.
    """
    usable = [each for each in optimizers if isinstance(each, Optimizer) and not isinstance(each, LBFGS)]
    if not usable:
        raise UserError("configure_optimizers returned no torch.optim.Optimizer that takes parameter groups")
    parts = [part for scheduler in schedulers for part in _parts(scheduler)]
    owners = [each for each in usable if any(log_wh is p for group in each.param_groups for p in group["params"])]
    for optimizer in owners or usable[:1]:
        groups = optimizer.param_groups
        index = next((i for i, group in enumerate(groups) if any(log_wh is p for p in group["params"])), 0)
        if not (owners and len(groups[index]["params"]) == 1):
            _split_off(optimizer, groups[index], log_wh)
            for part in parts:
                if getattr(part, "optimizer", None) is optimizer:
                    _extend(part, len(groups) - 1, index)
            index = -1
        groups[index]["name"] = GROUP
        if "weight_decay" in groups[index]:
            groups[index]["weight_decay"] = 0.0
        if lr_mult != 1:
            _multiply_rate(optimizer, lr_mult)


def _split_off(optimizer: Optimizer, source: dict[str, Any], log_wh: Tensor) -> None:
    """Adds a copy of the source group with the shapes alone, which the source has no more."""
    own = {name: copy.deepcopy(value) for name, value in source.items() if name not in ("params", "param_names")}
    own["params"] = [(GROUP, log_wh)] if "param_names" in source else [log_wh]
    keep = [index for index, parameter in enumerate(source["params"]) if parameter is not log_wh]
    for name in source.keys() & {"params", "param_names"}:
        source[name] = [source[name][index] for index in keep]
    optimizer.add_param_group(own)


def _parts(scheduler: Any) -> Iterator[Any]:
    """The scheduler, and those that SequentialLR and ChainedScheduler hold."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)


def _extend(scheduler: Any, num_groups: int, source: int) -> None:
    """Repeats the source group's value for the new group in every list that has one for each of the old groups."""
    for name, values in vars(scheduler).items():
        if name.endswith(PER_GROUP) and isinstance(values, list) and len(values) == num_groups:
            values.append(copy.deepcopy(values[source]))


def _multiply_rate(optimizer: Optimizer, lr_mult: float) -> None:
    """Lets `step()` alone see the shapes' learning rate times `lr_mult`, which is this run's, whatever was loaded."""
    rates: list[Any] = []

    def own(optimizer: Optimizer) -> dict[str, Any]:  # looked up again: loading an optimizer's state makes new groups
        return next(group for group in optimizer.param_groups if group.get("name") == GROUP)

    def restore(optimizer: Optimizer, *_: Any) -> None:
        if rates:
            own(optimizer)["lr"] = rates.pop()

    def multiply(optimizer: Optimizer, *_: Any) -> None:
        restore(optimizer)  # a step that raised did not come to its end
        group = own(optimizer)
        rates.append(group["lr"])
        group["lr"] = group["lr"] * lr_mult

    optimizer.register_step_pre_hook(multiply)
    optimizer.register_step_post_hook(restore)
    optimizer.register_state_dict_pre_hook(restore)
