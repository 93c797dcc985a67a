"""Order and position: pure functions of seed and step, the same for any number of ranks."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_lightning.data.sampler import NO_IMAGE, EvalBatchSampler, TrainBatchSampler, per_rank_batch_size
from anchor_lightning.errors import UserError

SIZE = (32, 64)


def indices(sampler: TrainBatchSampler | EvalBatchSampler) -> list[list[int]]:
    return [[key.index for key in batch] for batch in sampler]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one_rank(world_size: int) -> None:
    alone = indices(TrainBatchSampler(30, 8, SIZE, seed=1))
    shares = [indices(TrainBatchSampler(30, 8, SIZE, seed=1, rank=r, world_size=world_size)) for r in range(world_size)]
    assert len(alone) == 3
    for batch, parts in zip(alone, zip(*shares, strict=True), strict=True):
        assert all(len(part) == 8 // world_size for part in parts)
        assert sorted(batch) == sorted(chain(*parts))


def test_the_order_changes_with_epoch_and_seed_only_and_shows_an_image_once() -> None:
    def order(seed: int, step: int) -> list[list[int]]:
        return indices(TrainBatchSampler(30, 8, SIZE, seed=seed, global_step=lambda: step))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 3) != order(0, 6)
    assert order(0, 0) != order(1, 0)
    seen = set(chain(*order(0, 0)))
    assert len(seen) == 24 and seen <= set(range(30))
    keys = next(iter(TrainBatchSampler(30, 8, SIZE, global_step=lambda: 7)))
    assert {(key.epoch, key.image_size) for key in keys} == {(2, SIZE)}


@settings(max_examples=100, deadline=None)
@given(
    batches=st.integers(1, 12),
    accumulation=st.integers(1, 5),
    limit=st.one_of(st.integers(1, 15), st.floats(0.5, 1.0)),
    step=st.integers(0, 60),
)
def test_any_step_resumes_in_the_uninterrupted_sequence(
    batches: int, accumulation: int, limit: int | float, step: int
) -> None:
    steps_done = 0
    sampler = TrainBatchSampler(
        batches * 2 + 1, 2, SIZE, accumulation=accumulation, limit=limit, global_step=lambda: steps_done
    )
    if sampler.num_batches == 0:
        return
    windows: list[list[list[int]]] = []  # the batches of each optimizer step
    while len(windows) <= step:
        epoch = indices(sampler)
        windows += [epoch[i : i + accumulation] for i in range(0, len(epoch), accumulation)]
        steps_done = len(windows)
    steps_done = step
    assert indices(sampler)[: len(windows[step])] == windows[step]


def test_position_and_limit() -> None:
    step = 0
    sampler = TrainBatchSampler(30, 8, SIZE, global_step=lambda: step)
    whole, iterator = indices(sampler), iter(sampler)
    step = 1
    assert [key.index for key in next(iterator)] == whole[0] and indices(sampler) == whole[1:]
    # An int counts batches, a float is a share.
    assert [len(indices(TrainBatchSampler(30, 8, SIZE, limit=limit))) for limit in (1, 1.0)] == [1, 3]


def test_a_batch_that_is_too_large_or_does_not_divide() -> None:
    with pytest.raises(UserError, match=r"batch_size: 8 .*7 images.*7 or less"):
        TrainBatchSampler(7, 8, SIZE)
    assert per_rank_batch_size(64, 4) == 16
    for batch_size, world_size, message in ((64, 3, r"batch_size: 64 .*3 processes.*63 or 66"), (2, 4, "Give 4,")):
        with pytest.raises(UserError, match=message):
            per_rank_batch_size(batch_size, world_size)


@given(num_images=st.integers(1, 40), world_size=st.integers(1, 6), batch_size=st.integers(1, 7))
def test_evaluation_sees_every_image_once(num_images: int, world_size: int, batch_size: int) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        sampler = EvalBatchSampler(num_images, batch_size, SIZE, rank=rank, world_size=world_size)
        batches = indices(sampler)
        share = list(chain(*batches))
        assert len(batches) == len(sampler) and all(batches) and share == sorted(share)
        seen += share
    assert sorted(index for index in seen if index != NO_IMAGE) == list(range(num_images))
