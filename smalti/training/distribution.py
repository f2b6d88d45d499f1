"""One training in several processes of a machine, which share each step's batches and add up their gradients.

A step has `loop.accumulate` batches. One process computes them one after the other; several processes compute a part
each. The number of processes changes the time, and the result by rounding alone. Process 0 starts the others, and only
process 0 writes. In a single process every function here does nothing.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing

from smalti.errors import SmaltiError
from smalti.training.config import RunConfig
from smalti.training.resuming import alone_in, check_resume

ConfigT = TypeVar("ConfigT", bound=RunConfig)

# The others wait while process 0 encodes images, which may take hours. A process that dies breaks its connections, and
# the others notice at once.
_PATIENCE = timedelta(days=7)
_POLL_SECONDS = 0.05  # between two looks for processes that are not connected yet
_BUCKET = 2**24  # elements that are added up at once


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
        config: the configuration; with device "cuda" each process uses its own GPU.

    Raises:
        SmaltiError: there are fewer GPUs than processes, a process ended early, or `run` raises it here. Another
            process trains in the same folder, or the folder holds a training with another configuration.
    """
    with alone_in(Path(config.output)):
        check_resume(config)
        return run(config) if config.loop.processes == 1 else _spread(run, config)


def _spread(run: Callable[[ConfigT], dict[str, Any]], config: ConfigT) -> dict[str, Any]:
    """Call `run(config)` in several processes."""
    count = config.loop.processes
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
            _join(config, 0, folder, check=lambda: _check_alive(others))
            torch.set_num_threads(threads)
            return run(_placed(config, 0))
        finally:
            torch.set_num_threads(before)
            # A connected process ends by itself; one that still waits for the others does not.
            grace = 10 if dist.is_initialized() else 0
            if dist.is_initialized():
                dist.destroy_process_group()
            for process in others:
                process.join(grace)
                process.kill()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Run the block in process 0 while the others wait, then in the others."""
    if rank() > 0:
        _together(dist.barrier)
    yield
    if rank() == 0 and size() > 1:
        _together(dist.barrier)


@torch.no_grad()
def add_up(tensors: list[torch.Tensor]) -> None:
    """Replace every tensor by its sum over the processes, in place."""
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


def _join(config: RunConfig, number: int, folder: str, check: Callable[[], None]) -> None:
    """Make this process number `number` of the group that meets in `folder`.

    Args:
        config: the configuration.
        number: this process's number, from 0.
        folder: folder of this training alone, which all processes know.
        check: function that is called while others are missing, and raises if one of them is gone.
    """
    if sys.platform == "linux":
        # All processes are on this machine, whose name need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    cuda = config.loop.device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(number)
    # PyTorch waits for a process that is dead until _PATIENCE ends, so it begins when all are there.
    places = [Path(folder, f"process-{other}") for other in range(config.loop.processes)]
    places[number].touch()
    while not all(os.path.exists(place) for place in places):
        check()
        time.sleep(_POLL_SECONDS)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        init_method=(Path(folder) / "meeting").as_uri(),
        rank=number,
        world_size=config.loop.processes,
        timeout=_PATIENCE,
    )


def _check_alive(others: Sequence[BaseProcess]) -> None:
    """Raise SmaltiError if one of the other processes ended before it was connected."""
    for number, process in enumerate(others, start=1):
        if process.exitcode is not None:
            raise SmaltiError(
                f"process {number} of the training ended before its first step, with exit code {process.exitcode}"
            )


def _check_parent() -> None:
    """End this process if process 0 is gone."""
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():
        sys.exit(1)


def _placed(config: ConfigT, number: int) -> ConfigT:
    """Return the configuration of process `number`; with "cuda" its device is its own GPU."""
    if config.loop.device != "cuda":
        return config
    loop = config.loop.model_copy(update={"device": f"cuda:{number}"})
    return config.model_copy(update={"loop": loop})


def _other(run: Callable[[Any], Any], config: RunConfig, number: int, folder: str, threads: int) -> None:
    """Run the training in a process other than the first."""
    # Only process 0 answers a request to stop.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    logging.getLogger("smalti").setLevel(logging.ERROR)  # process 0 has the same notes
    torch.set_num_threads(threads)
    try:
        _join(config, number, folder, check=_check_parent)
        run(_placed(config, number))
    except SmaltiError:
        # Process 0 prints the same error, or is gone.
        sys.exit(1)
    dist.destroy_process_group()
