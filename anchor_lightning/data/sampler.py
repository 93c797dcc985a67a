"""Which image goes where: the order of training and evaluation, as pure functions of the seed and the step."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from anchor_lightning.errors import UserError

NO_IMAGE = -1  # `SampleKey.index` of a place that holds no image, see `EvalBatchSampler`


class SampleKey(NamedTuple):
    """All that a worker needs to know to make one sample.

    Args:
        index: Position of the image in its split, or `NO_IMAGE`.
        epoch: Epoch that the sample belongs to; with the seed and the index it fixes the augmentation.
        image_size: Height and width of the network input in pixels.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    epoch: int
    image_size: tuple[int, int]


@dataclass(eq=False)
class TrainBatchSampler(Sampler[list[SampleKey]]):
    """The batches of one rank, in an order that depends on the seed and the epoch only.

    Rank r takes every `world_size`-th of a global batch, `batch_size` consecutive entries of the epoch's permutation
    (an incomplete last one is dropped). Each `iter()` starts at the batch after the last optimizer step, so that a
    resumed run replays a partly accumulated window.

    Args:
        num_images: Images in the split.
        batch_size: Images of the global batch, divisible by `world_size`.
        image_size: Height and width of the network input in pixels.
        seed: Non-negative.
        rank: This process, in [0, world_size).
        world_size: Number of processes.
        accumulation: Batches per optimizer step.
        limit: `trainer.limit_train_batches`: at most that many batches an epoch (int), or that share of them (float).
        shuffle: Whether every epoch has an order of its own; else each takes the images in the order of the split, as
            `trainer.overfit_batches` asks.
        global_step: Returns the number of optimizer steps done, read at every `iter()`.

    Raises:
        UserError: If the split has fewer images than a batch, or the batch does not divide among the ranks.
    """

    num_images: int
    batch_size: int
    image_size: tuple[int, int]
    _: KW_ONLY
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    accumulation: int = 1
    limit: int | float = 1.0
    shuffle: bool = True
    global_step: Callable[[], int] = lambda: 0

    def __post_init__(self) -> None:
        per_rank_batch_size(self.batch_size, self.world_size)
        if self.num_images < self.batch_size:
            raise UserError(
                f"{self.batch_size} is larger than the {self.num_images} images of the training split, and an "
                f"incomplete batch is never used. Give {max(1, self.num_images)} or less.",
                argument="batch_size",
            )

    def __len__(self) -> int:
        """Batches of a whole epoch, before `limit` (the trainer applies its limit to this number itself)."""
        return self.num_images // self.batch_size

    @property
    def num_batches(self) -> int:
        """Batches of an epoch after `limit`."""
        return limited(len(self), self.limit)

    @property
    def units(self) -> dict[str, int]:
        """What a place in the data is counted in: batches per step, and per epoch."""
        return {"accumulate_grad_batches": self.accumulation, "batches_per_epoch": self.num_batches}

    def __iter__(self) -> Iterator[list[SampleKey]]:
        # Not itself a generator: the step must be read now, not when the first batch is asked for.
        steps_per_epoch = math.ceil(self.num_batches / self.accumulation)
        epoch, step = divmod(self.global_step(), max(1, steps_per_epoch))
        return self._batches(epoch, step * self.accumulation)

    def _batches(self, epoch: int, first: int) -> Iterator[list[SampleKey]]:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
        order = rng.permutation(self.num_images) if self.shuffle else np.arange(self.num_images)
        for batch in range(first, self.num_batches):
            members = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [SampleKey(int(i), epoch, self.image_size) for i in members[self.rank :: self.world_size]]


class EvalBatchSampler(Sampler[list[SampleKey]]):
    """Every `world_size`-th image of a split in its order, once, without padding to equal shares.

    An empty share is one batch that holds no image: a rank without batches skips the collective calls of the others.

    The arguments are those of `TrainBatchSampler`, but `batch_size` counts the images of this rank's batches.
    """

    def __init__(
        self, num_images: int, batch_size: int, image_size: tuple[int, int], *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.batch_size = batch_size
        self.image_size = image_size
        self.share = range(rank, num_images, world_size)

    def __len__(self) -> int:
        """Batches of this rank, at least 1."""
        return max(1, math.ceil(len(self.share) / self.batch_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        if not self.share:
            yield [SampleKey(NO_IMAGE, 0, self.image_size)]
        for start in range(0, len(self.share), self.batch_size):
            yield [SampleKey(i, 0, self.image_size) for i in self.share[start : start + self.batch_size]]


def limited(num_batches: int, limit: int | float) -> int:
    """The batches of an epoch that one of the trainer's limits leaves."""
    # An int counts batches and a float is a share, as in Lightning: 1 is one batch, 1.0 is all.
    return min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)


def per_rank_batch_size(batch_size: int, world_size: int) -> int:
    """The share of a global batch that one rank takes.

    Raises:
        UserError: If `batch_size` is not positive or not divisible by `world_size`.
    """
    if batch_size < 1:
        raise UserError(f"must be positive, got {batch_size}.", argument="batch_size")
    if batch_size % world_size:
        lower = batch_size // world_size * world_size
        nearest = " or ".join(str(size) for size in (lower, lower + world_size) if size)
        raise UserError(
            f"{batch_size} is the global batch and does not divide among {world_size} processes. Give {nearest}, or "
            "change the number of processes.",
            argument="batch_size",
        )
    return batch_size // world_size


def step_seed(step: int, rank: int) -> int:
    """The seed of what an optimizer step draws on one rank, from that of `seed_everything` (0 if there is none)."""
    seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
