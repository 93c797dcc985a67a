"""Builds somebody else's optimizers so that the shapes stand in a parameter group of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from torch import Tensor
from torch.optim import Optimizer

GROUP: Final = "anchors"
"""Name of the shapes' parameter group."""


def build_optimizers(configure: Callable[[], Any], log_wh: Tensor, lr_mult: float) -> Any:
    """What somebody's `configure_optimizers` returns, with the shapes in a group of their own, without weight decay.

    The group exists from the start, as the last one: learning-rate schedulers count the groups when they are built.
    `lr_mult` acts within `step()` alone, since schedulers such as OneCycleLR set the rate of every group anew.

    Args:
        configure: Takes nothing. It is called a second time when it built optimizers without the shapes.
        log_wh: The parameter.
        lr_mult: Times the learning rate that optimizer and scheduler give the group.

    Returns:
        As `configure`; None if it returns None.

    Raises:
        ValueError: The shapes are in no optimizer of `torch.optim`'s kind, or share a group.
    """
    for add in (False, True):
        with _own_group(log_wh, lr_mult, add):
            try:
                built = configure()
            except Exception as error:
                error.add_note(
                    "LearnAnchors gives the anchors a parameter group of their own, behind those that "
                    "configure_optimizers makes: a scheduler with one value a group needs one for it, too."
                )
                raise
        optimizers = list(_optimizers(built))
        groups = [group for optimizer in optimizers for group in optimizer.param_groups if _holds(group, log_wh)]
        if groups or built is None:
            break
    if built is not None and not groups:
        raise ValueError("LearnAnchors: configure_optimizers returned no torch.optim.Optimizer to train the anchors.")
    if any(len(group["params"]) > 1 for group in groups):
        raise ValueError(
            "LearnAnchors: the anchors could not be given a parameter group of their own; hand them to the optimizer "
            "when it is built, not later."
        )
    return built


@contextmanager
def _own_group(log_wh: Tensor, lr_mult: float, add: bool) -> Iterator[None]:
    """Optimizers built meanwhile get the group if they are given the shapes; with `add` the first one does anyway."""
    stock_init = Optimizer.__init__
    waiting = add

    def init(optimizer: Optimizer, params: Any, defaults: dict[str, Any]) -> None:
        nonlocal waiting
        groups, own = _split(params, log_wh)
        if own is None and waiting:
            is_named = bool(groups) and any(isinstance(item, tuple) for item in groups[0]["params"])
            own, waiting = {"params": [(GROUP, log_wh) if is_named else log_wh]}, False
        if own is None:
            stock_init(optimizer, groups or params, defaults)
            return
        own["name"] = GROUP
        if "weight_decay" in own or "weight_decay" in defaults:
            own["weight_decay"] = 0.0
        stock_init(optimizer, [*groups, own], defaults)
        if lr_mult != 1:
            _multiply_rate(optimizer, lr_mult)

    Optimizer.__init__ = init  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Optimizer.__init__ = stock_init  # type: ignore[method-assign]


def _split(params: Any, log_wh: Tensor) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The groups that `params` stands for without the shapes, and the shapes' own, or None without them."""
    if isinstance(params, (Tensor, set)):  # which the optimizer refuses by itself
        return [], None
    groups, own = list(params), None
    if groups and not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    rest = []
    for group in groups:
        members = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        mine = [item for item in members if _parameter(item) is log_wh]
        others = [item for item in members if _parameter(item) is not log_wh]
        if mine:
            own = {**group, "params": mine}
        if others or not mine:
            rest.append({**group, "params": others})
    return rest, own


def _parameter(item: Any) -> Any:
    """The parameter of an item of `parameters()` or `named_parameters()`."""
    return item[1] if isinstance(item, tuple) else item


def _holds(group: dict[str, Any], log_wh: Tensor) -> bool:
    return any(parameter is log_wh for parameter in group["params"])


def _optimizers(built: Any) -> Iterator[Any]:
    """Every optimizer in what `configure_optimizers` returned, in its order."""
    if isinstance(built, dict):
        built = list(built.values())
    if isinstance(built, (list, tuple)):
        for part in built:
            yield from _optimizers(part)
    elif hasattr(built, "param_groups"):
        yield built


def _multiply_rate(optimizer: Optimizer, lr_mult: float) -> None:
    """Lets `step()` alone see the shapes' learning rate times `lr_mult`, which is this run's, whatever was loaded."""
    rates: list[Any] = []

    # The group is looked up again: loading an optimizer's state makes new ones.
    def restore(optimizer: Optimizer, *_: Any) -> None:
        if rates:
            _anchors_of(optimizer)["lr"] = rates.pop()

    def multiply(optimizer: Optimizer, *_: Any) -> None:
        restore(optimizer)  # a step that raised did not come to its end
        group = _anchors_of(optimizer)
        rates.append(group["lr"])
        group["lr"] = group["lr"] * lr_mult

    optimizer.register_step_pre_hook(multiply)
    optimizer.register_step_post_hook(restore)
    optimizer.register_state_dict_pre_hook(restore)


def _anchors_of(optimizer: Optimizer) -> dict[str, Any]:
    return next(group for group in optimizer.param_groups if group.get("name") == GROUP)
