"""Runs of a benchmark by several processes of torchrun: they share the prompts and gather the rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from smalti.errors import SmaltiError
from smalti.training.distribution import local_rank, noticing_losses, rank, size

_PATIENCE = timedelta(days=7)  # a process that is gone is noticed at once


@contextmanager
def joined() -> Iterator[int]:
    """Join the processes that torchrun started, if any, for the block; give this process's number.

    Raises:
        SmaltiError: the processes cannot meet.

    Example:
        >>> with joined() as number:
        ...     print(number)
        0
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield rank()
        return
    try:
        dist.init_process_group("gloo", init_method="env://", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise SmaltiError(f"this process cannot join the others: {str(error).splitlines()[0]}") from error
    try:
        yield rank()
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """Return this process's device: with several processes "cuda" means that each has a GPU of its own.

    Example:
        >>> own_device("cuda")
        'cuda'
    """
    return f"cuda:{local_rank()}" if device == "cuda" and size() > 1 else device


def share(count: int) -> range:
    """Return the numbers from 0 to `count` − 1 that are this process's.

    Example:
        >>> list(share(3))
        [0, 1, 2]
    """
    return range(rank(), count, size())


def gather(rows: list[tuple[int, Any]]) -> list[Any]:
    """Return the rows of all processes in the order of their numbers; every process gets the same.

    Args:
        rows: number and row of each own prompt, ready for JSON.

    Example:
        >>> gather([(1, {"a": True}), (0, [])])
        [[], {'a': True}]
    """
    # One process takes the same path through JSON, so its rows are the same as those of several.
    text = json.dumps(rows).encode()
    texts = [text] if size() == 1 else _exchange(text)
    every = [(number, row) for part in texts for number, row in json.loads(part)]
    return [row for _, row in sorted(every, key=lambda entry: entry[0])]


def _exchange(text: bytes) -> list[bytes]:
    """Return the texts of all processes."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size())]
    with noticing_losses():
        dist.all_gather(lengths, torch.tensor([len(text)]))
        longest = int(max(lengths))
        padded = torch.frombuffer(bytearray(text.ljust(longest)), dtype=torch.uint8)
        found = [torch.empty(longest, dtype=torch.uint8) for _ in range(size())]
        dist.all_gather(found, padded)
    return [part.numpy().tobytes()[: int(length)] for part, length in zip(found, lengths, strict=True)]
