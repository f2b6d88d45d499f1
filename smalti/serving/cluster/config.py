"""How a server uses a Ray cluster: the keys of the file of `smalti serve --ray-config`, with Ray's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from smalti.common.files import read_text
from smalti.common.strict import Strict, Text
from smalti.errors import SmaltiError
from smalti.training.plain_yaml import read_yaml
from smalti.training.reading import explain


class Autoscaling(Strict):
    """How many replicas there are, by the load.

    Attributes:
        min_replicas, max_replicas: least and largest number of replicas.
        upscale_delay_s, downscale_delay_s: seconds of more and of less load before the number changes.
    """

    min_replicas: NonNegativeInt = 1
    max_replicas: PositiveInt
    upscale_delay_s: NonNegativeFloat = 30
    downscale_delay_s: NonNegativeFloat = 600

    @field_validator("max_replicas")
    @classmethod
    def _in_order(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_replicas", 0):
            raise ValueError("must be at least min_replicas")
        return value


class ClusterConfig(Strict):
    """A Ray cluster, and the replicas on it.

    Attributes:
        address: of a cluster that runs, such as "auto"; None starts Ray on this machine, for this server alone.
        name: name of the application; servers of one cluster have different ones.
        num_replicas: number of replicas; None is 1, or what `autoscaling_config` says.
        autoscaling_config: bounds of a number of replicas that follows the load.
        ray_actor_options: what a replica needs, such as num_cpus, num_gpus and resources.
        max_replicas_per_node: largest number of replicas on a machine.
        graceful_shutdown_timeout_s: seconds that a replica has to end.
        health_check_period_s, health_check_timeout_s: seconds between looks at a replica, and until it counts as dead.
    """

    address: Text | None = None
    name: Text = "smalti"
    num_replicas: PositiveInt | None = None
    autoscaling_config: Autoscaling | None = None
    ray_actor_options: dict[str, Any] = Field(default_factory=dict)
    max_replicas_per_node: PositiveInt | None = None
    graceful_shutdown_timeout_s: PositiveFloat = 20
    health_check_period_s: PositiveFloat = 10
    health_check_timeout_s: PositiveFloat = 30

    @property
    def least_replicas(self) -> int:
        """Number of replicas that there are at the start."""
        return self.autoscaling_config.min_replicas if self.autoscaling_config else self.num_replicas or 1

    @property
    def most_replicas(self) -> int:
        """Largest number of replicas."""
        return self.autoscaling_config.max_replicas if self.autoscaling_config else self.num_replicas or 1

    def deployment_options(self, device: str) -> dict[str, Any]:
        """Return the options of Ray's deployment.

        Args:
            device: "cpu" or "cuda". With "cuda" a replica has a GPU of its own, unless `ray_actor_options` say more.

        Example:
            >>> ClusterConfig(num_replicas=2).deployment_options("cuda")["ray_actor_options"]
            {'num_gpus': 1}
        """
        scale: dict[str, Any] = {"num_replicas": self.num_replicas or 1}
        if self.autoscaling_config is not None:
            # A replica draws one batch at a time, and the server holds what waits.
            scale = {
                "autoscaling_config": self.autoscaling_config.model_dump() | {"target_ongoing_requests": 1}
            }
        gpu = {"num_gpus": 1} if device == "cuda" else {}
        more = (
            {}
            if self.max_replicas_per_node is None
            else {"max_replicas_per_node": self.max_replicas_per_node}
        )
        return {
            **scale,
            **more,
            "ray_actor_options": gpu | self.ray_actor_options,
            "max_ongoing_requests": 1,
            "graceful_shutdown_timeout_s": self.graceful_shutdown_timeout_s,
            "health_check_period_s": self.health_check_period_s,
            "health_check_timeout_s": self.health_check_timeout_s,
        }


def read_cluster_config(path: Path | None, replicas: int | None) -> ClusterConfig:
    """Return the configuration in a YAML file, or the default one.

    Args:
        path: the file, or None.
        replicas: number of replicas in place of the file's, or None.

    Raises:
        SmaltiError: the file is missing or not YAML, a key is unknown, a value is wrong. The message names the key.
    """
    values: Any = {}
    if path is not None:
        text = read_text(path)
        try:
            values = read_yaml(text) or {}
        except SmaltiError as error:
            raise SmaltiError(f"{path} {error}") from error
        if not isinstance(values, dict):
            raise SmaltiError(f"{path} must hold keys and values, not {type(values).__name__}")
    if replicas is not None:
        values = {**values, "num_replicas": replicas}
    try:
        config = ClusterConfig.model_validate(values)
    except ValidationError as error:
        raise SmaltiError(f"{path}: {explain(ClusterConfig, error)}") from error
    if config.num_replicas is not None and config.autoscaling_config is not None:
        raise SmaltiError("num_replicas excludes autoscaling_config: leave one of them out")
    return config
