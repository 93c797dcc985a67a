"""From uint8 images to what the network sees: the same bits however it is computed, in memory that nobody else has."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from anchor_lightning.data.network_input import BatchMemory, network_input
from anchor_lightning.data.transforms import distort_colour, draw_colour

CHANNELS_LAST = torch.channels_last


def make_images(num: int, height: int = 37, width: int = 53) -> Tensor:
    """(num, 3, height, width) uint8 as the loader gives them, with greys, black, white and equal channels."""
    pixels = np.random.default_rng(num).integers(0, 256, (num, height, width, 3)).astype(np.uint8)
    pixels[:, 0] = pixels[:, 0, :, :1]
    pixels[:, 1, :, 1:] = pixels[:, 1, :, :1]
    pixels[:, 2], pixels[:, 3] = 0, 255
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def make_colours(num: int) -> Tensor:
    generator = np.random.default_rng(num)
    return torch.from_numpy(np.array([draw_colour(generator) for _ in range(num)], dtype=np.float32).reshape(num, 3))


@pytest.mark.parametrize("num", [0, 1, 5])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_bits_are_those_of_the_batch_in_one(num: int, layout: torch.memory_format) -> None:
    images, colours = make_images(num).contiguous(memory_format=layout), make_colours(num)
    before = images.clone()
    floats = images.contiguous().float() / 255
    for memory in (None, BatchMemory()):
        plain, distorted = network_input(images, None, memory), network_input(images, colours, memory)
        assert torch.equal(plain, floats) and torch.equal(distorted, distort_colour(floats, colours))
        assert plain.is_contiguous(memory_format=CHANNELS_LAST) and distorted.is_contiguous(memory_format=CHANNELS_LAST)
    assert torch.equal(images, before)


def test_a_default_type_of_torch_changes_nothing() -> None:
    images, colours = make_images(2), make_colours(2)
    expected = network_input(images, colours)
    torch.set_default_dtype(torch.float64)
    try:
        made, plain = network_input(images, colours), network_input(images)
    finally:
        torch.set_default_dtype(torch.float32)
    assert made.dtype == plain.dtype == torch.float32 and torch.equal(made, expected)


def test_memory_serves_again_once_nothing_refers_to_it() -> None:
    memory = BatchMemory()
    first = memory.take(4, 6).fill_(1)
    place = first.data_ptr()
    del first
    second = memory.take(3, 2).fill_(2)
    assert second.data_ptr() == place and second.dtype == torch.float32
    kept = second.view(2, 3)[1:].detach()  # a view of it is enough
    del second
    third = memory.take(3, 2).fill_(3)
    assert third.data_ptr() != place and kept.tolist() == [[2, 2, 2]]
    del third
    larger = memory.take(5, 5).fill_(4)
    assert larger.shape == (5, 5) and kept.tolist() == [[2, 2, 2]]


def test_a_copy_has_memory_of_its_own() -> None:
    memory = BatchMemory()
    tensor = memory.take(4).fill_(1)
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        other.take(4).fill_(2)
    assert tensor.tolist() == [1, 1, 1, 1]


def test_a_graph_keeps_the_images_that_it_needs() -> None:
    """A convolution's weights need its input in the backward pass, also after the next batch was made."""
    weight = torch.ones(1, 3, 1, 1, requires_grad=True)
    memory, images = BatchMemory(), make_images(1)
    output = torch.nn.functional.conv2d(network_input(images, None, memory), weight).sum()
    network_input(255 - images, None, memory)
    output.backward()
    torch.testing.assert_close(weight.grad, (images.float() / 255).sum((0, 2, 3)).reshape(1, 3, 1, 1))
