"""What the processes of a training do together: add up, wait, agree, and notice that one of them is gone.

`smalti.training.launching` starts the processes or joins those that torchrun started. In a single process every
function here does nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from smalti.errors import SmaltiError

# Words of PyTorch's errors about a connection that broke because the process at its other end is gone.
_BROKEN = re.compile(r"gloo|NCCL|connection|broken pipe|socket|recvValue failed|timed? ?out", re.IGNORECASE)
_DIGEST = 32  # bytes


class PeerLostError(SmaltiError):
    """Another process of the training is gone; what it said itself is the cause."""


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Return this process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0


@contextlib.contextmanager
def noticing_losses() -> Iterator[None]:
    """Turn the errors of broken connections inside the block into `PeerLostError`.

    Raises:
        PeerLostError: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_broken(error):
            raise
        raise PeerLostError("a process of the training ended early") from error


def is_broken(error: BaseException) -> bool:
    """Return whether an error says that the connection to another process broke."""
    ours = isinstance(error, SmaltiError | torch.OutOfMemoryError) or not isinstance(error, RuntimeError)
    return size() > 1 and not ours and bool(_BROKEN.search(str(error)))


def cause_of(error: BaseException) -> BaseException:
    """Return the first process's error, if an error is that of several processes which read or wrote together."""
    if not isinstance(error, CheckpointException):
        return error
    first = next(iter(error.failures.values()))
    return first[0] if isinstance(first, tuple) else first


def wait_for_all() -> None:
    """Wait until every process is here."""
    if size() > 1:
        with noticing_losses():
            # A tensor on the CPU: gloo notices at once that a process is gone.
            dist.all_reduce(torch.zeros(1))


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Run the block in process 0 while the others wait, then in the others."""
    if rank() > 0:
        wait_for_all()
    yield
    if rank() == 0:
        wait_for_all()


@torch.no_grad()
def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """Replace a tensor by its sum over the processes, in place, and return it."""
    if size() > 1:
        with noticing_losses():
            dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def take_from_first(tensors: list[torch.Tensor]) -> None:
    """Replace every tensor by that of process 0, in place."""
    if size() > 1:
        with noticing_losses():
            for tensor in tensors:
                plain = tensor.contiguous()
                dist.broadcast(plain, 0)
                tensor.copy_(plain)


def check_same(texts: dict[str, str]) -> None:
    """Raise SmaltiError in every process if one of them has another text than process 0 has.

    Args:
        texts: what must be the same, by a name for the error; the same names in every process.
    """
    if size() == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in texts.values()]
    own = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8)
    found = [torch.empty_like(own) for _ in range(size())]
    with noticing_losses():
        dist.all_gather(found, own)
    for number, other in enumerate(found):
        for place, name in enumerate(texts):
            part = slice(_DIGEST * place, _DIGEST * (place + 1))
            if not torch.equal(other[part], found[0][part]):
                raise SmaltiError(f"process {number} of the training has another {name} than process 0 has")


@cache
def code_version() -> str:
    """Return a text that differs between two versions of the code: PyTorch's version and a hash of the package."""
    digest = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return f"torch {version('torch')}, smalti {digest.hexdigest()}"
