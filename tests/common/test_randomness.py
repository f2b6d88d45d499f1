"""Random streams: every bit of a seed counts, and small seeds keep their numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smalti.common.randomness import generator, stream
from smalti.errors import SmaltiError


def draw(made: torch.Generator) -> list[float]:
    return torch.rand(8, generator=made).tolist()


@pytest.mark.parametrize("seed", [0, 1, 7, 2**32 - 1])
def test_small_seeds_keep_their_numbers(seed):
    assert draw(generator(seed)) == draw(torch.Generator().manual_seed(seed))


def test_every_bit_of_a_seed_counts():
    seeds = [0, *(1 << bit for bit in range(63)), 2**63 - 1, 1 + 2**32, 1 + 2**62]
    assert len({tuple(draw(generator(seed))) for seed in seeds}) == len(seeds)


def test_large_seeds_give_uniform_numbers():
    values = torch.rand(100_000, generator=generator(2**40 + 3))
    assert abs(float(values.mean()) - 0.5) < 0.005 and abs(float(values.var()) - 1 / 12) < 0.002
    assert generator(2**40 + 3).initial_seed() == 2**40 + 3
    # The numbers that a release gave must stay.
    assert torch.randint(2**31, (3,), generator=generator(2**40 + 3)).tolist() == PINNED


PINNED = [501937207, 149422194, 579683102]


def test_normal_numbers_and_states_work():
    made = generator(2**50)
    state = made.get_state()
    first = torch.randn(40, generator=made)
    made.set_state(state)
    assert torch.equal(torch.randn(40, generator=made), first)


def test_streams_use_more_than_32_bits():
    # With 32 bits alone 9,000 streams would collide with a probability of 1 %; their words are compared whole.
    numbers = {tuple(draw(stream(0, "corruption", index))) for index in range(2000)}
    assert len(numbers) == 2000
    assert any(stream(0, "corruption", index).initial_seed() >= 2**32 for index in range(10))
    low = [stream(0, "corruption", index).initial_seed() % 2**32 for index in range(10)]
    assert all(
        draw(stream(0, "corruption", index)) != draw(torch.Generator().manual_seed(seed))
        for index, seed in enumerate(low)
    )


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, None])
def test_other_seeds_are_refused(seed):
    with pytest.raises(SmaltiError, match="seed must be a whole number"):
        generator(seed)


def test_numpy_seeds():
    assert draw(generator(np.int64(2**40))) == draw(generator(2**40))
