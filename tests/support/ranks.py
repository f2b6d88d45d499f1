"""Functions run in several processes that form a group, as torchrun starts them, without its cost."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


def run_ranks(count: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Call `function(*arguments)` in `count` processes with a gloo group; return what each returned.

    Args:
        count: number of processes.
        function: function at the top of a module.
        folder: an empty folder for results, in which the processes also run.
        arguments: its arguments.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = folder / f"results-{count}"
    results.mkdir()
    torch.multiprocessing.spawn(_work, (count, port, function, str(results), os.getcwd(), arguments), count)
    return [pickle.loads((results / str(number)).read_bytes()) for number in range(count)]


def _work(
    rank: int,
    count: int,
    port: int,
    function: Callable[..., Any],
    results: str,
    place: str,
    arguments: tuple[Any, ...],
) -> None:
    os.chdir(place)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="env://")
    Path(results, str(rank)).write_bytes(pickle.dumps(function(*arguments)))
    dist.barrier()
    # The end of gloo's threads aborts a process now and then, after everything is done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
