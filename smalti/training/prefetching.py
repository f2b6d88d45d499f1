"""Batches that threads prepare while the trainer uses earlier ones."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def prefetch(
    batch: Callable[[int], Any], numbers: range, makers: int
) -> Generator[tuple[int, Any], None, None]:
    """Yield batches with their numbers, while `makers` threads make the next ones."""
    with ThreadPoolExecutor(makers, "batches") as pool:
        left = iter(numbers)
        ahead = deque((index, pool.submit(batch, index)) for index in itertools.islice(left, makers))
        while ahead:
            index, made = ahead.popleft()
            current = made.result()
            ahead.extend((later, pool.submit(batch, later)) for later in itertools.islice(left, 1))
            yield index, current
