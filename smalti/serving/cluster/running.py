"""Start Ray or join it, run the replicas, and leave everything as it was found."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from smalti.errors import SmaltiError
from smalti.serving.cluster.config import ClusterConfig
from smalti.serving.cluster.desk import Desk
from smalti.serving.cluster.remote import RemoteWorker
from smalti.serving.cluster.replica import Replica
from smalti.serving.worker import Worker

log = logging.getLogger("smalti.serving")

_LOCAL = "local"
# Images pass through it on their way to the server.
_OBJECT_BYTES = 500_000_000
_TRIES = 2


@contextmanager
def running_cluster(
    config: ClusterConfig, make: Callable[[], Worker], *, device: str = "cpu", select_seconds: float = 300
) -> Iterator[list[RemoteWorker]]:
    """Run the replicas while the block lasts.

    Args:
        config: the cluster and the number of replicas.
        make: makes the worker of a replica. It travels there, and what it loads must be there too.
        device: device of the replicas: "cpu" or "cuda".
        select_seconds: longest time that a selection of tokens may take.

    Yields:
        A worker for each replica that there may be.

    Raises:
        SmaltiError: Ray is missing or does not start, or the replicas do not.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or _LOCAL
    own = address == _LOCAL
    ray, serve = _import(own)
    with _unwound_by_sigterm() as catch:
        _connect(ray, config, address)
        catch()  # Ray has put a handler of its own in the place
        try:
            options = config.deployment_options(device)
            _check_room(ray, config, options["ray_actor_options"], own)
            log.info("starting replicas on Ray: %d", config.least_replicas)
            handle = _deploy(serve, config, make, options)
            desk = ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=1000)(Desk).remote()
            yield [RemoteWorker(handle, desk, select_seconds) for _ in range(config.most_replicas)]
        finally:
            if not own:
                serve.delete(config.name)
            ray.shutdown()


def _import(own: bool) -> tuple[Any, Any]:
    """Return the modules of Ray and Ray Serve, which read the environment when they are imported.

    Args:
        own: whether a cluster is to be started here.

    Raises:
        SmaltiError: one is missing.
    """
    # Ray reports its use over the network unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A replica that draws answers questions about its queue late; ten times the default is still short.
    os.environ.setdefault("RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "1")
    # Ray's ports are open to the network and run whatever they are sent, so nobody else may know the token. Where Ray
    # was imported before, it makes a token by itself.
    if own and "ray" not in sys.modules and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
        from ray import serve
    except ModuleNotFoundError as error:
        raise SmaltiError(f"smalti serve --ray needs {error.name}: pip install 'smalti[ray]'") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return ray, serve


def _connect(ray: Any, config: ClusterConfig, address: str) -> None:
    """Join the cluster at an address, or start one here.

    Raises:
        SmaltiError: there is no such cluster, or it does not start.
    """
    own = address == _LOCAL
    more = {"include_dashboard": False, "object_store_memory": _OBJECT_BYTES} if own else {}
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.ERROR, namespace=config.name, **more
        )
    except Exception as error:
        problem = (
            "Ray did not start"
            if own
            else f"address must be that of a Ray cluster that runs, not {address!r}"
        )
        raise SmaltiError(f"{problem}: {error}") from error


def _check_room(ray: Any, config: ClusterConfig, needs: dict[str, Any], own: bool) -> None:
    """Raise SmaltiError if this machine cannot hold the replicas. A cluster may still grow: there it is a warning."""
    names = {"CPU": needs.get("num_cpus", 1), "GPU": needs.get("num_gpus", 0), **needs.get("resources", {})}
    found = ray.cluster_resources()
    for name, each in names.items():
        wanted = each * config.least_replicas
        if wanted > found.get(name, 0):
            message = (
                f"{config.least_replicas} replicas need {wanted:g} {name}, and Ray has {found.get(name, 0):g}: "
                "ask for fewer replicas, or for less in ray_actor_options"
            )
            if own:
                raise SmaltiError(message)
            log.warning("%s; they start when the cluster has grown", message)


def _deploy(serve: Any, config: ClusterConfig, make: Callable[[], Worker], options: dict[str, Any]) -> Any:
    """Run the deployment, wait for its replicas, and return its handle.

    Raises:
        SmaltiError: an option is wrong, or the replicas do not start.
    """
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    try:
        # The server in front of the replicas is this process, so Ray's own proxies are not needed.
        serve.start(proxy_location="Disabled", logging_config=quiet)
        deployment = serve.deployment(
            Replica, name="replica", max_constructor_retry_count=_TRIES, logging_config=quiet, **options
        )
        return serve.run(deployment.bind(make), name=config.name, route_prefix=None, logging_config=quiet)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SmaltiError(f"the replicas did not start: {lines[-1] if lines else error!r}") from error


@contextmanager
def _unwound_by_sigterm() -> Iterator[Callable[[], None]]:
    """Let SIGTERM leave the block by an exception, and end the process afterwards as it would have.

    Yields:
        A function that takes the signal again, after somebody else took it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM)

    def catch() -> None:
        signal.signal(signal.SIGTERM, _leave)

    catch()
    try:
        yield catch
    except _Terminated:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(BaseException):
    """The process was told to end."""


def _leave(number: int, frame: FrameType | None) -> None:
    raise _Terminated
