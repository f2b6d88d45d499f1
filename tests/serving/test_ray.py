"""Two replicas on Ray: a server answers with them what it answers without. CONTRIBUTING.md says how to run this."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import httpx2
import numpy as np
import pytest
from folders import write_tiny_model
from PIL import Image
from ray_workers import POISON, SLOW, MarkedWorker
from served import events_of, running_server, until

import smalti
from smalti.pipeline import Pipeline
from smalti.serving.cluster.config import ClusterConfig
from smalti.serving.cluster.running import running_cluster
from smalti.storage.loading import load_outline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install -e '.[ray]'"),
    pytest.mark.filterwarnings("default"),  # Ray itself uses what is deprecated
]

ROOT = Path(__file__).parents[2]
LIMITS = {"waiting": 6, "waiting_per_client": 6, "batch": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder):
    return smalti.load(folder)


@pytest.fixture(scope="module")
def marks(tmp_path_factory):
    """The folder in which replicas write down their processes."""
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def server(folder, marks):
    # Replicas inherit the variable.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    make = partial(MarkedWorker, str(folder), str(marks))
    try:
        with (
            running_cluster(ClusterConfig(num_replicas=2), make) as workers,
            running_server(Pipeline(load_outline(folder)), workers=workers, limits=LIMITS) as running,
        ):
            yield running
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture
def client(server):
    with httpx2.Client(base_url=server.url, timeout=120) as made:
        yield made


def draw(client, prompt="a red circle", **fields):
    return client.post(
        "/v1/images/generations", json={"prompt": prompt, "num_inference_steps": 4, "seed": 3, **fields}
    )


def pixels(data) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data["b64_json"]))))


def test_images_of_both_replicas_are_those_of_the_pipeline(client, pipe, marks) -> None:
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda seed: draw(client, n=2, seed=seed), range(0, 12, 2)))
    settings = pipe.settings.replaced(num_inference_steps=4)
    for seed, answer in zip(range(0, 12, 2), answers, strict=True):
        assert answer.status_code == 200, answer.text
        want = pipe("a red circle", settings=settings, seed=seed, num_images_per_prompt=2).images
        for data, image in zip(answer.json()["data"], want, strict=True):
            assert np.array_equal(pixels(data), np.asarray(image))
    assert len(list(marks.iterdir())) == 2


def test_edits_and_variations_are_those_of_the_pipeline(client, pipe) -> None:
    settings = pipe.settings.replaced(num_inference_steps=4)
    scene = pipe("a red circle", settings=settings, seed=3)
    file = base64.b64decode(draw(client).json()["data"][0]["b64_json"])
    for path, fields, prompt in (
        ("edits", {"prompt": "two dogs", "share": 0.3}, "two dogs"),
        ("variations", {"strength": 0.4}, "a red circle"),
    ):
        changes = {name: value for name, value in fields.items() if name != "prompt"}
        want = pipe.edit(scene, prompt, seed=5, settings=settings, **changes)
        answer = client.post(
            f"/v1/images/{path}",
            data={**fields, "seed": 5, "num_inference_steps": 4},
            files={"image": ("a.png", file)},
        )
        assert answer.status_code == 200, answer.text
        assert np.array_equal(pixels(answer.json()["data"][0]), np.asarray(want.image))


def test_streams_and_events_are_complete(client) -> None:
    fields = {"prompt": SLOW, "num_inference_steps": 8, "stream": True, "partial_images": 3}
    with client.stream("POST", "/v1/images/generations", json=fields) as answer:
        names = [name for name, _, _ in events_of(answer)]
    assert names == ["image_generation.partial_image"] * 3 + ["image_generation.completed", "message"]
    job = client.post("/api/jobs", json={"prompt": SLOW, "num_inference_steps": 8}).json()
    with client.stream("GET", f"/api/jobs/{job['id']}/events") as answer:
        found = list(events_of(answer))
    steps = [data for name, data, _ in found if name == "step"]
    assert steps[-1]["step"] == 8 and any("previews" in data for data in steps)
    assert found[-1][1]["state"] == "completed"


def test_a_cancelled_job_ends_and_frees_its_replica(client) -> None:
    jobs = [
        client.post("/api/jobs", json={"prompt": SLOW, "num_inference_steps": 64}).json() for _ in range(2)
    ]
    for job in jobs:
        until(lambda job=job: client.get(f"/api/jobs/{job['id']}").json()["progress"]["step"] > 1)
        answer = client.post(f"/api/jobs/{job['id']}/cancel")
        assert answer.json()["state"] == "cancelled"
    assert draw(client).status_code == 200


def test_a_fault_fails_its_request_alone(client) -> None:
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(partial(draw, client), ["a red circle", POISON, "a green star"]))
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert "secret" not in answers[1].text and answers[1].json()["error"]["code"] == "internal_error"
    answer = draw(client, top_p=7)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "top_p"


def test_a_full_queue_is_429(client) -> None:
    jobs, refused = [], None
    for _ in range(30):
        answer = client.post("/api/jobs", json={"prompt": SLOW, "num_inference_steps": 64})
        if answer.status_code == 429:
            refused = answer
            break
        jobs.append(answer.json()["id"])
    for name in jobs:
        client.post(f"/api/jobs/{name}/cancel")
    assert refused is not None and int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] in ("queue_full", "too_many_requests")


def test_a_killed_replica_loses_no_request(client, marks, pipe) -> None:
    for mark in marks.iterdir():
        mark.unlink()
    with ThreadPoolExecutor(1) as threads:
        coming = threads.submit(draw, client, SLOW, num_inference_steps=16)
        found = until(lambda: list(marks.iterdir()))
        os.kill(int(found[0].name), signal.SIGKILL)
        answer = coming.result()
    assert answer.status_code == 200, answer.text
    settings = pipe.settings.replaced(num_inference_steps=16)
    assert np.array_equal(
        pixels(answer.json()["data"][0]), np.asarray(pipe(SLOW, settings=settings, seed=3).images[0])
    )


def test_the_command_serves_and_leaves_nothing_behind(folder) -> None:
    command = [sys.executable, "-m", "smalti", "serve", "--model", str(folder), "--port", "0", "--ray"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--replicas", "2"], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://\S+:(\d+)/", line):
                break
        else:
            pytest.fail("".join(lines))
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
        ).stdout.split()
        with httpx2.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=120) as client:
            assert draw(client).status_code == 200
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == -signal.SIGTERM
    assert children
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def test_more_replicas_than_there_is_room_for(folder) -> None:
    command = [sys.executable, "-m", "smalti", "serve", "--model", str(folder), "--port", "0", "--ray"]
    ended = subprocess.run([*command, "--replicas", "1000"], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 2
    assert "1000 replicas need 1000 CPU" in ended.stderr and "Traceback" not in ended.stderr
