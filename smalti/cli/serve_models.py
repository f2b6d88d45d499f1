"""The models of `smalti serve`: loaded in this process, or in the replicas of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.cli import options
from smalti.common.checks import check_whole
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline
    from smalti.serving.limits import Limits
    from smalti.serving.worker import Drawing, Worker


Load = Callable[[], "list[dict[str, Pipeline]]"]
Workers = AbstractContextManager["Sequence[Drawing] | None"]


def in_this_process(
    models: Sequence[str], devices: Sequence[str], loading: Mapping[str, Any]
) -> tuple[Load, Workers]:
    """Return what loads the models of each device, and a context without workers of other processes.

    Args:
        models: folders and names; none is the bundled one.
        devices: names of devices.
        loading: the other options of loading, by their names.
    """

    def load() -> list[dict[str, Pipeline]]:
        return [load_models(models, {**loading, "device": device}) for device in devices]

    return load, nullcontext()


def on_ray(
    models: Sequence[str],
    devices: Sequence[str],
    loading: Mapping[str, Any],
    path: Path | None,
    replicas: int | None,
    limits: Limits,
) -> tuple[Load, Workers]:
    """Return what reads the outlines of the models, and the context in which replicas on Ray run.

    Args:
        models, loading: as for `in_this_process`.
        devices: the device of a replica, one alone.
        path: the configuration of the cluster, or None.
        replicas: number of replicas in place of the configuration's, or None.
        limits: bounds of the server.

    Raises:
        SmaltiError: the configuration is wrong, or the device.
    """
    from smalti.serving.cluster.config import read_cluster_config
    from smalti.serving.cluster.running import running_cluster

    if list(devices) not in (["cpu"], ["cuda"]):
        raise SmaltiError(
            f"device must be cpu or cuda with --ray, which gives each replica its GPU, not {' and '.join(devices)}",
            argument="device",
        )
    if replicas is not None:
        check_whole("--replicas", replicas)
    config = read_cluster_config(path, replicas)
    make = partial(make_worker, models, {**loading, "device": devices[0]})
    workers = running_cluster(config, make, device=devices[0], select_seconds=limits.draw_seconds)
    return lambda: [_by_name(models, partial(_outline, loading=loading))], workers


def make_worker(models: Sequence[str], loading: Mapping[str, Any]) -> Worker:
    """Return the worker of a replica: the arguments are those of `load_models`. It is called where the replica is."""
    from smalti.serving.worker import Worker

    return Worker(load_models(models, loading))


def load_models(models: Sequence[str], loading: Mapping[str, Any]) -> dict[str, Pipeline]:
    """Return models by name.

    Args:
        models: folders and names; none is the bundled one.
        loading: the options of loading by their names, with the device.

    Raises:
        SmaltiError: there is no such model, two have one name, or an option is wrong.
    """
    return _by_name(models, lambda model: options.load_pipeline({**loading, "model": model}))


def _outline(model: str | None, loading: Mapping[str, Any]) -> Pipeline:
    from smalti.pipeline import Pipeline
    from smalti.storage.light import with_light
    from smalti.storage.loading import load_outline
    from smalti.storage.words import read_words, with_stored_words

    outline = load_outline(
        model,
        revision=loading["hub_revision"],
        adapter=loading["adapter"] or None,
        adapter_scale=options.scales(loading["adapter_scale"]),
    )
    return Pipeline(with_stored_words(with_light(outline, loading["light"]), read_words(loading["word"])))


def _by_name(models: Sequence[str], read: Callable[[str | None], Pipeline]) -> dict[str, Pipeline]:
    """Read models; none is the bundled one."""
    found: dict[str, Pipeline] = {}
    wanted: list[str | None] = [*models] or [None]
    for model in wanted:
        pipe = read(model)
        if pipe.components.name in found:
            raise SmaltiError(
                f"model must be named once, not twice: {pipe.components.name}", argument="model"
            )
        found[pipe.components.name] = pipe
    return found
