"""Random streams: one generator for every purpose and index, all from one seed."""

from __future__ import annotations

import hashlib

import torch


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
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
