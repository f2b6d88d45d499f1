"""The models of `smalti serve`: loaded in this process, or in the replicas of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.cli import options
from smalti.common.checks import check_whole
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline
    from smalti.serving.cluster.config import ClusterConfig
    from smalti.serving.limits import Limits
    from smalti.serving.worker import Drawing, Worker


def load_models(models: Sequence[str | None], loading: Mapping[str, Any]) -> dict[str, Pipeline]:
    """Return models by name.

    Args:
        models: folders and names, None for the bundled one.
        loading: the options of loading by their names, with the device.

    Raises:
        SmaltiError: there is no such model, two have one name, or an option is wrong.
    """
    return _by_name(models, lambda model: options.load_pipeline({**loading, "model": model}))


def load_on(
    devices: Sequence[str], models: Sequence[str | None], loading: Mapping[str, Any]
) -> list[dict[str, Pipeline]]:
    """Return the models of each device; the other arguments are those of `load_models`, without the device."""
    return [load_models(models, {**loading, "device": device}) for device in devices]


@dataclass(frozen=True)
class OnRay:
    """The models in replicas on Ray.

    Attributes:
        models: as for `load_models`.
        loading: the options of loading, with the device.
        config: the cluster.
        limits: bounds of the server.
    """

    models: Sequence[str | None]
    loading: Mapping[str, Any]
    config: ClusterConfig
    limits: Limits

    def outlines(self) -> list[dict[str, Pipeline]]:
        """Return what this process has to know of the models."""
        return [_by_name(self.models, partial(_outline, loading=self.loading))]

    def running(self) -> AbstractContextManager[Sequence[Drawing]]:
        """Return the context in which the replicas run."""
        from smalti.serving.cluster.running import running_cluster

        return running_cluster(
            self.config,
            partial(make_worker, self.models, self.loading),
            device=self.loading["device"],
            select_seconds=self.limits.draw_seconds,
        )


def on_ray(
    models: Sequence[str | None],
    devices: Sequence[str],
    loading: Mapping[str, Any],
    path: Path | None,
    replicas: int | None,
    limits: Limits,
) -> OnRay:
    """Return the models in replicas.

    Args:
        models, loading: as for `load_models`, without the device.
        devices: the device of a replica, one alone.
        path: the configuration of the cluster, or None.
        replicas: number of replicas in place of the configuration's, or None.
        limits: bounds of the server.

    Raises:
        SmaltiError: the configuration is wrong, or the device.
    """
    from smalti.serving.cluster.config import read_cluster_config

    if list(devices) not in (["cpu"], ["cuda"]):
        raise SmaltiError(
            f"device must be cpu or cuda with --ray, which gives each replica its GPU, not {' and '.join(devices)}",
            argument="device",
        )
    if replicas is not None:
        check_whole("--replicas", replicas)
    config = read_cluster_config(path, replicas)
    return OnRay(models, {**loading, "device": devices[0]}, config, limits)


def make_worker(models: Sequence[str | None], loading: Mapping[str, Any]) -> Worker:
    """Return the worker of a replica: the arguments are those of `load_models`. It is called where the replica is."""
    from smalti.serving.worker import Worker

    return Worker(load_models(models, loading))


def _outline(model: str | None, loading: Mapping[str, Any]) -> Pipeline:
    from smalti.pipeline import Pipeline
    from smalti.storage.loading import load_outline

    return Pipeline(
        load_outline(
            model,
            revision=loading["hub_revision"],
            adapter=loading["adapter"] or None,
            adapter_scale=options.scales(loading["adapter_scale"]),
        )
    )


def _by_name(models: Sequence[str | None], read: Callable[[str | None], Pipeline]) -> dict[str, Pipeline]:
    found: dict[str, Pipeline] = {}
    for model in models:
        pipe = read(model)
        if pipe.components.name in found:
            raise SmaltiError(
                f"model must be named once, not twice: {pipe.components.name}", argument="model"
            )
        found[pipe.components.name] = pipe
    return found
