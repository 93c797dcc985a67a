"""The shapes' group in optimizers and schedulers built without it, against ones built by hand with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler

from anchor_lightning.callbacks.own_group import add_own_group
from anchor_lightning.errors import UserError

STEPS = 8
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda groups: SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda groups: AdamW(groups, lr=0.01, weight_decay=0.1),
}
# Each is given the optimizer and the number of its groups.
SCHEDULERS: dict[str, Callable[[Optimizer, int], Any]] = {
    "lambda": lambda o, n: lr_scheduler.LambdaLR(o, [lambda step: 0.5**step] * n),
    "one_cycle": lambda o, n: lr_scheduler.OneCycleLR(o, [0.1] * n, total_steps=STEPS + 1),
    "cosine": lambda o, n: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "plateau": lambda o, n: lr_scheduler.ReduceLROnPlateau(o, patience=1, min_lr=[1e-4] * n),
    "cyclic": lambda o, n: lr_scheduler.CyclicLR(o, [0.01] * n, [0.1] * n, step_size_up=3),
    # As many schedulers as groups, and as many milestones: neither is a value a group.
    "sequential": lambda o, n: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.CosineAnnealingLR(o, 4)], [2, 4]
    ),
    "chained": lambda o, n: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
}


def parameters() -> list[nn.Parameter]:
    """Two of a network, and the shapes."""
    return [nn.Parameter(torch.full((2,), value)) for value in (1.0, 2.0, 3.0)]


def run(optimizer: Optimizer, scheduler: Any, trained: list[nn.Parameter]) -> list[Tensor]:
    """The parameters and learning rates after every step of a fixed loss."""
    seen = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        sum((each - index).square().sum() for index, each in enumerate(trained)).backward()  # type: ignore[union-attr]
        optimizer.step()
        if scheduler is not None:
            scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        rates = torch.tensor([group["lr"] for group in optimizer.param_groups])
        seen.append(torch.cat([each.detach().clone() for each in trained] + [rates]))
    return seen


@pytest.mark.parametrize("has_shapes", [True, False])
@pytest.mark.parametrize(
    ("kind", "schedule"), [*(("sgd", schedule) for schedule in SCHEDULERS), ("adamw", "one_cycle")]
)
def test_as_built_by_hand(kind: str, schedule: str, has_shapes: bool) -> None:
    hand = parameters()
    groups: list[dict[str, Any]] = [{"params": hand[:1], "lr": 0.02}, {"params": hand[1:2]}]
    # The group of the shapes copies the one that they were in, else the first.
    own = {"params": hand[2:], "weight_decay": 0.0} | ({} if has_shapes else {"lr": 0.02})
    expected = OPTIMIZERS[kind]([*groups, own])
    expected_values = run(expected, SCHEDULERS[schedule](expected, 3), hand)

    a, b, log_wh = parameters()
    optimizer = OPTIMIZERS[kind]([{"params": [a], "lr": 0.02}, {"params": [log_wh, b] if has_shapes else [b]}])
    scheduler = SCHEDULERS[schedule](optimizer, 2)
    add_own_group([optimizer], [scheduler], log_wh, 1.0)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1, 1]
    assert optimizer.param_groups[-1]["name"] == "anchors" and optimizer.param_groups[-1]["weight_decay"] == 0
    torch.testing.assert_close(run(optimizer, scheduler, [a, b, log_wh]), expected_values, rtol=0, atol=0)
    assert [len(rates) for rates in (scheduler.get_last_lr(), getattr(scheduler, "base_lrs", [0] * 3))] == [3, 3]


def test_named_parameters_and_a_checkpoint() -> None:
    a, b, log_wh = parameters()
    optimizer = SGD([("a", a), ("b", b), ("shapes.log_wh", log_wh)], lr=0.1, momentum=0.9)
    add_own_group([optimizer], [], log_wh, 2.0)
    assert [group["param_names"] for group in optimizer.param_groups] == [["a", "b"], ["anchors"]]
    run(optimizer, None, [a, b, log_wh])
    twins = [nn.Parameter(each.detach().clone()) for each in (a, b, log_wh)]
    resumed = SGD(twins, lr=0.1, momentum=0.9)
    add_own_group([resumed], [], twins[2], 2.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    expected = run(optimizer, None, [a, b, log_wh])
    torch.testing.assert_close(run(resumed, None, twins), expected, rtol=0, atol=0)


def test_a_group_that_is_their_own_already_stays_where_it_is() -> None:
    a, b, log_wh = parameters()
    optimizer = AdamW([{"params": [log_wh], "lr": 0.5}, {"params": [a, b]}])
    add_own_group([optimizer], [], log_wh, 1.0)
    own, others = optimizer.param_groups
    assert (own["name"], own["lr"], own["weight_decay"]) == ("anchors", 0.5, 0.0)
    assert "name" not in others and others["weight_decay"] > 0


def test_several_optimizers() -> None:
    """The one that has the shapes gets the group, else the first; the schedulers of the other are left alone."""
    for owner in (0, 1):
        a, b, log_wh = parameters()
        optimizers = [SGD([a], lr=0.1), SGD([b, log_wh] if owner else [b], lr=0.2)]
        schedulers = [lr_scheduler.LambdaLR(optimizer, lambda step: 1.0) for optimizer in optimizers]
        add_own_group(optimizers, schedulers, log_wh, 1.0)
        counts = [1, 2] if owner else [2, 1]
        assert [len(optimizer.param_groups) for optimizer in optimizers] == counts
        assert [len(scheduler.lr_lambdas) for scheduler in schedulers] == counts
        assert optimizers[owner].param_groups[-1]["lr"] == [0.1, 0.2][owner]


def test_lr_mult_acts_within_the_step_alone_even_one_that_raised() -> None:
    a, b, log_wh = parameters()
    optimizer = SGD([a, b, log_wh], lr=0.1)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    add_own_group([optimizer], [scheduler], log_wh, 3.0)
    for rate in (0.1, 0.05):
        with pytest.raises(ZeroDivisionError):
            optimizer.step(lambda: 1 / 0)
        assert optimizer.state_dict()["param_groups"][-1]["lr"] == pytest.approx(rate)
        before = log_wh.detach().clone()
        log_wh.grad = torch.ones(2)
        optimizer.step()
        torch.testing.assert_close(before - log_wh.detach(), torch.full((2,), 3 * rate))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate])
        scheduler.step()


def test_no_optimizer_that_takes_groups() -> None:
    a, b, log_wh = parameters()
    for optimizers in ([], [torch.optim.LBFGS([a, b, log_wh])]):
        with pytest.raises(UserError, match=r"torch\.optim\.Optimizer"):
            add_own_group(optimizers, [], log_wh, 1.0)
