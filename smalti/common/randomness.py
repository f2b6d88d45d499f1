"""Random streams: one generator for every purpose and index, all from one seed."""

from __future__ import annotations

import hashlib
import math
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

_STEP = np.uint64(0x9E3779B97F4A7C15)  # between two states of SplitMix64: 2⁶⁴ over the golden ratio


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
    return generator(_key(seed, purpose, index) >> 1)


def _key(seed: int, purpose: str, index: int) -> int:
    """Return 64 bits that depend on all three arguments."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True)
class Draws:
    """Random numbers for the items of a batch, where each item has its own row of numbers.

    An item's numbers do not depend on the other items. However a set is cut into batches, it gets the same numbers.
    They are made for all items at once: number n of an item is SplitMix64's (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", 2014) from the item's key. A generator an item would take most of the time in
    which a GPU's batches are made.

    Attributes:
        keys: (N,) uint64, a hash of seed, purpose and number for every item.
        taken: (N,) uint64, how many numbers were drawn of every item. Every draw raises it.
        rows: (B,) int64, the items that these draws are for, each of them once.

    Example:
        >>> whole, part = Draws.of(0, "corruption", range(4)), Draws.of(0, "corruption", range(2, 4))
        >>> bool((whole.uniform(3)[2:] == part.uniform(3)).all())
        True
    """

    keys: np.ndarray
    taken: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, seed: int, purpose: str, indices: Iterable[int]) -> Draws:
        """Return the draws of the items with these numbers."""
        keys = np.array([_key(seed, purpose, index) for index in indices], np.uint64)
        return cls(keys, np.zeros(len(keys), np.uint64), np.arange(len(keys)))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.rows)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return (B, *shape) float32 in [0, 1), multiples of 2⁻²⁴."""
        count = math.prod(shape)
        places = self.taken[self.rows, None] + np.arange(1, count + 1, dtype=np.uint64)
        self.taken[self.rows] += np.uint64(count)
        bits = _mixed(self.keys[self.rows, None] + places * _STEP) >> np.uint64(40)
        values = bits.astype(np.float32) * np.float32(2**-24)
        return torch.from_numpy(values.reshape(len(self), *shape))

    def below(self, bound: int, *shape: int) -> torch.Tensor:
        """Return (B, *shape) int64 from 0 to bound − 1."""
        return (self.uniform(*shape).double() * bound).long()

    def select(self, rows: Iterable[int]) -> Draws:
        """Return the draws of some items, which go on from where they are."""
        return Draws(self.keys, self.taken, self.rows[np.fromiter(rows, np.int64)])


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Return SplitMix64's output for states, uint64, computed in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits
