"""Random streams: one generator for every purpose and index, all from one seed."""

from __future__ import annotations

import hashlib

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
