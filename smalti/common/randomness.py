"""Random streams: one generator for every purpose and index, all from one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from smalti.common.checks import check_seed

# PyTorch's CPU generator is a Mersenne twister of 624 words. `manual_seed` uses 32 bits of a seed.
_WORDS = 624
_NARROW = 2**32
# Its state: the seed (8 bytes), two numbers and a place (16), then the words, 8 bytes each.
_SEED, _STATE = slice(0, 8), slice(24, 24 + 8 * _WORDS)


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator that depends on all 63 bits of a seed.

    Seeds below 2³² give the numbers of `torch.Generator().manual_seed`. Larger ones fill the generator's state with a
    hash of the seed.

    Raises:
        SmaltiError: the seed is no whole number from 0 to 2⁶³ − 1.

    Example:
        >>> a, b = (torch.rand((), generator=generator(seed)) for seed in (1, 1 + 2**32))
        >>> bool(a == b)
        False
    """
    seed = check_seed(seed)
    made = torch.Generator()
    if seed < _NARROW:
        return made.manual_seed(seed)
    state = made.manual_seed(0).get_state().numpy()
    words = np.frombuffer(hashlib.shake_256(f"smalti {seed}".encode()).digest(4 * _WORDS), dtype="<u4")
    state[_SEED] = np.array([seed], dtype="<u8").view(np.uint8)
    state[_STATE] = words.astype("<u8").view(np.uint8)
    made.set_state(torch.from_numpy(state))
    return made


def stream(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU generator that depends on all three arguments and nothing else.

    Two streams that differ in any argument are unrelated. A resumed training therefore draws what an uninterrupted
    one would have drawn.

    Args:
        seed: the run's or the image's seed.
        purpose: what the numbers are for, such as "corruption".
        index: number of the batch, the pass or the image.

    Example:
        >>> a, b = (torch.rand((), generator=stream(0, "corruption", 7)) for _ in range(2))
        >>> bool(a == b)
        True
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return generator(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class Draws:
    """Random numbers for the items of a batch, where each item has its own generator.

    An item's numbers do not depend on the other items. However a set is cut into batches, it gets the same numbers.

    Attributes:
        generators: one generator an item, on the CPU. Every draw advances them.

    Example:
        >>> whole, part = Draws.of(0, "corruption", range(4)), Draws.of(0, "corruption", range(2, 4))
        >>> bool((whole.uniform(3)[2:] == part.uniform(3)).all())
        True
    """

    generators: tuple[torch.Generator, ...]

    @classmethod
    def of(cls, seed: int, purpose: str, indices: Iterable[int]) -> Draws:
        """Return the draws of the items with these numbers, `stream(seed, purpose, index)` for each."""
        return cls(tuple(stream(seed, purpose, index) for index in indices))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.generators)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return (B, *shape) float32 in [0, 1)."""
        if not self.generators:
            return torch.empty(0, *shape)
        return torch.stack([torch.rand(shape, generator=generator) for generator in self.generators])

    def below(self, bound: int, *shape: int) -> torch.Tensor:
        """Return (B, *shape) int64 from 0 to bound − 1."""
        return (self.uniform(*shape).double() * bound).long()

    def select(self, rows: Iterable[int]) -> Draws:
        """Return the draws of some items, which go on from where they are."""
        return Draws(tuple(self.generators[row] for row in rows))
