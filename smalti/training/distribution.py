"""One training in several processes of a machine, which share each step's batches and add up their gradients.

A step has `loop.accumulate` batches. One process computes them one after the other; several compute a part each. Their
number changes the time, and the result by rounding alone. Process 0 is the one that was started, and it alone writes.
In a single process every function here does nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing

from smalti.errors import SmaltiError
from smalti.training.config import RunConfig

ConfigT = TypeVar("ConfigT", bound=RunConfig)

# Others wait while process 0 encodes images, which may take hours. A process that dies is noticed at once.
_PATIENCE = timedelta(days=7)
_BUCKET = 2**24


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def spread(run: Callable[[ConfigT], dict[str, Any]], config: ConfigT) -> dict[str, Any]:
    """Call `run(config)` in `config.loop.processes` processes, and return the result of this one, process 0.

    Args:
        run: function at the top of a module, which the other processes import.
        config: the configuration; with device "cuda" each process gets a GPU of its own.

    Raises:
        SmaltiError: there are fewer GPUs than processes, or a process ended early; or `run` raises it here.
    """
    count = config.loop.processes
    if count == 1:
        return run(config)
    if config.loop.device == "cuda" and torch.cuda.device_count() < count:
        raise SmaltiError(
            f"loop.processes must be at most {torch.cuda.device_count()}, the number of GPUs, not {count}"
        )
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="smalti-") as folder:
        threads = max(1, torch.get_num_threads() // count)
        others = [
            context.Process(target=_other, args=(run, config, number, folder, threads), daemon=True)
            for number in range(1, count)
        ]
        for process in others:
            process.start()
        before = torch.get_num_threads()
        try:
            _join(config, 0, folder)
            torch.set_num_threads(threads)
            return run(_placed(config, 0))
        finally:
            torch.set_num_threads(before)
            if dist.is_initialized():
                dist.destroy_process_group()
            for process in others:
                process.join(timeout=10)
                process.kill()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Run the block in process 0 while the others wait, and afterwards in them."""
    if rank() > 0:
        _together(dist.barrier)
    yield
    if rank() == 0 and size() > 1:
        _together(dist.barrier)


@torch.no_grad()
def add_up(tensors: list[torch.Tensor]) -> None:
    """Replace every tensor by its sum over the processes, in place, some millions of numbers at a time."""
    if size() == 1:
        return
    bucket: list[torch.Tensor] = []
    for index, tensor in enumerate(tensors):
        bucket.append(tensor)
        if sum(part.numel() for part in bucket) >= _BUCKET or index == len(tensors) - 1:
            flat = torch.cat([part.flatten() for part in bucket])
            _together(dist.all_reduce, flat)
            for part, total in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                part.copy_(total.view(part.shape))
            bucket = []


def add_up_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """Return the same names with the sums of their values over the processes."""
    if size() == 1:
        return numbers
    values = torch.tensor(list(numbers.values()), dtype=torch.float64)
    _together(dist.all_reduce, values)
    return dict(zip(numbers, values.tolist(), strict=True))


@torch.no_grad()
def take_from_first(tensors: list[torch.Tensor]) -> None:
    """Replace every tensor by that of process 0, in place."""
    if size() > 1:
        for tensor in tensors:
            plain = tensor.contiguous()
            _together(dist.broadcast, plain, 0)
            tensor.copy_(plain)


def _together(call: Callable[..., Any], *arguments: Any) -> None:
    """Make a call that all processes make, and raise SmaltiError if one of them is gone."""
    try:
        call(*arguments)
    except RuntimeError as error:
        raise SmaltiError("a process of the training ended early (its message is above)") from error


def _join(config: RunConfig, number: int, folder: str) -> None:
    """Make this process number `number` of the group that meets in `folder`."""
    if sys.platform == "linux":
        # All processes are on this machine, whose name need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    cuda = config.loop.device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(number)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        init_method=(Path(folder) / "meeting").as_uri(),
        rank=number,
        world_size=config.loop.processes,
        timeout=_PATIENCE,
    )


def _placed(config: ConfigT, number: int) -> ConfigT:
    """Return the configuration of process `number`, whose device is its own GPU."""
    if config.loop.device != "cuda":
        return config
    loop = config.loop.model_copy(update={"device": f"cuda:{number}"})
    return config.model_copy(update={"loop": loop})


def _other(run: Callable[[Any], Any], config: RunConfig, number: int, folder: str, threads: int) -> None:
    """Run the training in a process other than the first."""
    # Only process 0 answers a request to stop.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        _join(config, number, folder)
        run(_placed(config, number))
    except SmaltiError:
        # Process 0 prints the same error, or is gone.
        sys.exit(1)
    dist.destroy_process_group()
