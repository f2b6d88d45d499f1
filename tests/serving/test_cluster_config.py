"""How `smalti serve --ray` is configured, without Ray."""

from __future__ import annotations

import sys

import pytest

from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.serving.cluster.config import ClusterConfig, read_cluster_config


@pytest.fixture
def write(tmp_path):
    def call(text: str):
        path = tmp_path / "ray.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return call


def test_without_a_file_there_is_one_replica_on_this_machine() -> None:
    config = read_cluster_config(None, None)
    assert (config.address, config.least_replicas, config.most_replicas) == (None, 1, 1)
    assert read_cluster_config(None, 3).most_replicas == 3


def test_a_file_has_ray_s_names(write) -> None:
    config = read_cluster_config(
        write("address: auto\nnum_replicas: 4\nray_actor_options: {num_cpus: 2}\n"), None
    )
    options = config.deployment_options("cuda")
    assert config.address == "auto" and options["num_replicas"] == 4
    assert options["ray_actor_options"] == {"num_gpus": 1, "num_cpus": 2}
    assert options["max_ongoing_requests"] == 1
    assert read_cluster_config(write("num_replicas: 4\n"), 2).num_replicas == 2
    assert read_cluster_config(write(""), None) == ClusterConfig()


def test_the_number_of_replicas_may_follow_the_load(write) -> None:
    config = read_cluster_config(write("autoscaling_config: {min_replicas: 0, max_replicas: 8}\n"), None)
    assert (config.least_replicas, config.most_replicas) == (0, 8)
    options = config.deployment_options("cpu")
    assert "num_replicas" not in options and options["ray_actor_options"] == {}
    assert options["autoscaling_config"]["target_ongoing_requests"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replicas: 2\n", "unknown key replicas; known here: address, name, num_replicas"),
        ("num_replicas: 0\n", "num_replicas: "),
        ("num_replicas: two\n", "num_replicas: "),
        ("autoscaling_config: {min_replicas: 1}\n", "autoscaling_config.max_replicas is missing"),
        (
            "autoscaling_config: {max_replicas: 1, max_replica: 1}\n",
            "unknown key autoscaling_config.max_replica",
        ),
        ("- 1\n", "must hold keys and values, not list"),
        ("a: [\n", "is not YAML"),
        ("num_replicas: 2\nautoscaling_config: {max_replicas: 2}\n", "num_replicas excludes"),
        (
            "autoscaling_config: {min_replicas: 3, max_replicas: 2}\n",
            "must be at least min_replicas, not 2",
        ),
    ],
)
def test_a_wrong_file_is_named(write, text, message) -> None:
    with pytest.raises(SmaltiError) as error:
        read_cluster_config(write(text), None)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--replicas", "2"], "--replicas needs --ray"),
        (["--ray", "--replicas", "0"], "--replicas must be a whole number of at least 1, not 0"),
        (["--ray", "--device", "cuda:1"], "--device must be cpu or cuda with --ray"),
        (["--ray", "--device", "cpu", "--device", "cpu"], "--device must be cpu or cuda with --ray"),
        (["--ray-config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_options_are_one_line(capfd, options, message) -> None:
    assert main(["serve", "--port", "0", *options]) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_ray_the_line_says_what_to_install(capfd, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "0")
    assert main(["serve", "--port", "0", "--ray"]) == 2
    assert capfd.readouterr().err == "smalti: smalti serve --ray needs ray: pip install 'smalti[ray]'\n"
