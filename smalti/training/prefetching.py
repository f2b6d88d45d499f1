"""Batches that threads prepare while the trainer uses earlier ones."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made")


def prefetch(
    make: Callable[[Key], Made], keys: Iterable[Key], makers: int, waiting: int | None = None
) -> Generator[tuple[Key, Made], None, None]:
    """Yield what `make` returns for each key, with the key, while `makers` threads make the next ones.

    At most `waiting` are made ahead of time, by default one a thread.
    """
    with ThreadPoolExecutor(makers, "batches") as pool:
        left = iter(keys)
        ahead = deque((key, pool.submit(make, key)) for key in itertools.islice(left, waiting or makers))
        while ahead:
            key, made = ahead.popleft()
            current = made.result()
            ahead.extend((later, pool.submit(make, later)) for later in itertools.islice(left, 1))
            yield key, current
