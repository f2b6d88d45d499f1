"""The processes of a training: those that torchrun started, or a few that Smalti starts on this machine.

Both go through the same code: a process finds its number in the environment, joins the others and runs the training.
With torchrun, the number of processes is torchrun's. Without it, `loop.processes` of them are started by the launcher
that torchrun uses.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from tqdm import tqdm

from smalti.errors import SmaltiError
from smalti.training.config import RunConfig
from smalti.training.data_config import EncodingConfig
from smalti.training.distribution import (
    PeerLostError,
    check_same,
    code_version,
    local_rank,
    noticing_losses,
    rank,
    wait_for_all,
)
from smalti.training.resuming import alone_in, check_resume

ConfigT = TypeVar("ConfigT", bound=RunConfig | EncodingConfig)

# The others wait while process 0 encodes images, which may take hours. A process that dies breaks its connections, and
# the others notice at once.
_PATIENCE = timedelta(days=7)
_GRACE_SECONDS = 20  # that the other processes have to end after one of them failed
_REPORTED = "smalti/reported"


def under_torchrun() -> bool:
    """Return whether a launcher such as torchrun or srun gave this process a number."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def spread(run: Callable[[ConfigT], dict[str, Any]], config: ConfigT) -> dict[str, Any]:
    """Call `run(config)` in every process of the training, and return the result of process 0.

    Under torchrun this process is one of them, and returns its own result. Otherwise `config.loop.processes` are
    started here.

    Args:
        run: function at the top of a module, which the other processes import.
        config: the configuration; with device "cuda" each process uses its own GPU.

    Raises:
        SmaltiError: there are fewer GPUs than processes, a process ended early, or `run` raises it. Another
            process trains in the same folder, or the folder holds a training with another configuration.
    """
    # The bars' own lock is a semaphore of the system. A process that is killed leaves it behind, with a warning.
    tqdm.set_lock(threading.RLock())
    if under_torchrun() and not dist.is_initialized():
        return _join(run, config)
    if config.loop.processes == 1 or dist.is_initialized():
        with alone_in(Path(config.output)):
            check_resume(config)
            return run(config)
    return _launch(run, config)


def _join(run: Callable[[ConfigT], dict[str, Any]], config: ConfigT) -> dict[str, Any]:
    """Join the processes whose addresses are in the environment, and call `run(config)`.

    If several processes fail, the first one says why, and the others end without a word.
    """
    cuda = config.loop.device.startswith("cuda")
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        check_gpus(place + 1)
        torch.cuda.set_device(place)
    if rank_of_environment() > 0:
        logging.getLogger("smalti").setLevel(logging.ERROR)  # process 0 has the same notes
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", init_method="env://", timeout=_PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SmaltiError(f"process {rank_of_environment()} cannot join the training: {reason}") from error
    try:
        with noticing_losses():
            check_same({"version of the code": code_version(), "configuration": config.model_dump_json()})
            return _run_together(run, _placed(config))
    except PeerLostError as error:
        if _first_to_report():
            raise SmaltiError(f"{error}: training stops; what was saved before is complete") from error
        sys.exit(1)
    except SmaltiError:
        if _first_to_report():
            raise
        sys.exit(1)
    finally:
        dist.destroy_process_group()


def _run_together(run: Callable[[ConfigT], dict[str, Any]], config: ConfigT) -> dict[str, Any]:
    """Call `run(config)`, once process 0 has found the folder free and fit."""
    if rank() > 0:
        wait_for_all()
        return run(config)
    with alone_in(Path(config.output)):
        check_resume(config)
        wait_for_all()
        return run(config)


def rank_of_environment() -> int:
    """Return the number that the launcher gave this process, 0 without one."""
    return int(os.environ.get("RANK", "0"))


def _first_to_report() -> bool:
    """Return whether no other process has reported an error; from now on one has."""
    try:
        return dist.distributed_c10d._get_default_store().add(_REPORTED, 1) == 1
    except RuntimeError:  # the process that keeps the store is gone
        return True


def _placed(config: ConfigT) -> ConfigT:
    """Return this process's configuration; with "cuda" its device is its own GPU."""
    if config.loop.device != "cuda":
        return config
    loop = config.loop.model_copy(update={"device": f"cuda:{local_rank()}"})
    return cast(ConfigT, config.model_copy(update={"loop": loop}))


def check_gpus(count: int) -> None:
    """Raise SmaltiError unless there are as many GPUs as processes."""
    if torch.cuda.device_count() < count:
        raise SmaltiError(
            f"loop.processes must be at most {torch.cuda.device_count()}, the number of GPUs, not {count}"
        )


def _launch(run: Callable[[ConfigT], dict[str, Any]], config: ConfigT) -> dict[str, Any]:
    """Start the processes on this machine, wait for them, and return the result of process 0."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count = config.loop.processes
    if config.loop.device == "cuda":
        check_gpus(count)
    # PyTorch 2.11 does not have this setting.
    known = "shutdown_timeout" in LaunchConfig.__dataclass_fields__
    grace: dict[str, Any] = {"shutdown_timeout": _GRACE_SECONDS} if known else {}
    with tempfile.TemporaryDirectory(prefix="smalti-") as folder, _quiet(), _forwarding_signals():
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle="SIGQUIT",  # Ctrl-C and SIGTERM are passed on, see `_forwarding_signals`
            **grace,
        )
        threads = max(1, torch.get_num_threads() // count)
        said = Path(folder) / "said"
        try:
            return elastic_launch(launch, _work)(run, config, threads, str(said))[0]
        except ChildFailedError as error:
            if os.path.exists(said):
                raise SmaltiError(said.read_text(encoding="utf-8")) from None
            number, failure = error.get_first_failure()
            raise SmaltiError(
                f"process {number} of the training ended early, {_end(failure.exitcode)}: "
                "what was saved before is complete"
            ) from None


def _end(code: int) -> str:
    """Return how a process ended, by its exit code, which is negative after a signal."""
    names = {-number: number.name for number in signal.Signals}
    return f"killed by {names[code]}" if code in names else f"with exit code {code}"


def _work(
    run: Callable[[ConfigT], dict[str, Any]], config: ConfigT, threads: int, said: str
) -> dict[str, Any]:
    """Run the training in a process that `_launch` started; what goes wrong is written to `said` by one of them."""
    if sys.platform == "linux":
        # All processes are on this machine, whose name need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())
    try:
        result = _join(run, config)
    except SmaltiError as error:
        if not isinstance(error.__cause__, PeerLostError):
            Path(said).write_text(str(error), encoding="utf-8")
        sys.exit(1)
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    return result


def _end_with_launcher() -> None:
    """Wait until the launcher is gone, and end this process, which would wait forever to hand over its result."""
    launcher = multiprocessing.parent_process()
    if launcher is not None:
        launcher.join()
        os._exit(1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the launcher's own log out of the way: what failed is said in one line."""
    loggers = [logging.getLogger(name) for name in ("torch.distributed", "torch.multiprocessing.spawn")]
    loggers += [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith("torch.distributed") and isinstance(logger, logging.Logger)
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _forwarding_signals() -> Iterator[None]:
    """Pass the first Ctrl-C or SIGTERM on to the processes, which then save and end; the second one kills them."""
    asked = False

    def forward(number: int, frame: object) -> None:
        nonlocal asked
        for child in multiprocessing.active_children():
            if asked:
                child.kill()
            elif child.pid is not None:
                os.kill(child.pid, signal.SIGTERM)
        asked = True

    try:
        previous = {name: signal.signal(name, forward) for name in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
