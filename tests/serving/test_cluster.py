"""Workers in replicas, without Ray: the same images, events and errors as with a worker in the process."""

from __future__ import annotations

import base64
import io

import httpx2
import numpy as np
import pytest
import torch
from clustered import remote_worker
from folders import write_tiny_model
from PIL import Image
from served import MODEL, Gate, SlowWorker, events_of, make_job, running_engine, running_server, until

import smalti
from smalti.editing.selection import Selection
from smalti.editing.source import open_source
from smalti.pipeline import Pipeline
from smalti.serving.tasks import EditTask
from smalti.serving.worker import Worker
from smalti.storage.loading import load_outline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder):
    return smalti.load(folder)


@pytest.fixture(scope="module")
def client(pipe, folder):
    """A client of a server that has outlines alone; its worker is in a replica."""
    with (
        remote_worker(lambda: Worker({MODEL: pipe})) as (worker, _),
        running_server(Pipeline(load_outline(folder)), worker=worker) as server,
        httpx2.Client(base_url=server.url, timeout=30) as made,
    ):
        yield made


class Poisoned(Worker):
    """A worker that fails at some prompts."""

    def draw(self, pieces, watch) -> None:
        if any(piece.task.prompt == "a blue square" for piece in pieces):
            raise ValueError("poisoned /srv/secret/path")
        super().draw(pieces, watch)


def pixels(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_images_are_those_of_the_pipeline(client, pipe) -> None:
    fields = {"prompt": "a red circle", "num_inference_steps": 4, "seed": 3, "n": 2}
    answer = client.post("/v1/images/generations", json=fields)
    assert answer.status_code == 200, answer.text
    settings = pipe.settings.replaced(num_inference_steps=4)
    want = pipe("a red circle", settings=settings, seed=3, num_images_per_prompt=2).images
    for data, image in zip(answer.json()["data"], want, strict=True):
        assert np.array_equal(pixels(data["b64_json"]), np.asarray(image))


def test_edits_and_variations_are_those_of_the_pipeline(client, pipe) -> None:
    drawn = client.post("/v1/images/generations", json={"prompt": "a red circle", "seed": 3}).json()
    file = base64.b64decode(drawn["data"][0]["b64_json"])
    image = pipe("a red circle", seed=3)
    for path, fields, want in (
        ("edits", {"prompt": "two dogs", "share": 0.3}, pipe.edit(image, "two dogs", share=0.3, seed=5)),
        ("variations", {"strength": 0.4}, pipe.edit(image, "a red circle", strength=0.4, seed=5)),
    ):
        answer = client.post(
            f"/v1/images/{path}", data={**fields, "seed": 5}, files={"image": ("a.png", file)}
        )
        assert answer.status_code == 200, answer.text
        assert np.array_equal(pixels(answer.json()["data"][0]["b64_json"]), np.asarray(want.image))


def test_errors_name_their_field(client, pipe) -> None:
    image = io.BytesIO()
    pipe("a red circle", seed=3).images[0].save(image, "PNG")
    mask = io.BytesIO()
    Image.new("L", pipe("a red circle", seed=3).images[0].size).save(mask, "PNG")
    files = {"image": ("a.png", image.getvalue()), "mask": ("m.png", mask.getvalue())}
    answer = client.post("/v1/images/edits", data={"prompt": "two dogs"}, files=files)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "mask"


def test_selections_and_info_need_no_weights(client, pipe) -> None:
    file = base64.b64decode(
        client.post("/v1/images/generations", json={"prompt": "a red circle", "seed": 3}).json()["data"][0][
            "b64_json"
        ]
    )
    files = {"image": ("a.png", file)}
    answer = client.post("/api/selections", data={"prompt": "two dogs"}, files=files)
    assert answer.status_code == 200 and answer.json()["region"]["chosen"] > 0
    again = client.get(f"/api/selections/{answer.json()['id']}?share=0.2")
    assert again.status_code == 200
    assert client.get("/api/info").json()["models"][0]["id"] == MODEL


def test_streams_have_images_on_the_way(pipe, folder) -> None:
    fields = {
        "prompt": "a red circle",
        "num_inference_steps": 8,
        "stream": True,
        "partial_images": 3,
        "seed": 1,
    }
    with (
        remote_worker(lambda: SlowWorker(pipe, seconds=0.05)) as (worker, _),
        running_server(Pipeline(load_outline(folder)), worker=worker) as server,
        httpx2.stream("POST", f"{server.url}/v1/images/generations", json=fields, timeout=30) as answer,
    ):
        names = [name for name, _, _ in events_of(answer)]
    assert names == ["image_generation.partial_image"] * 3 + ["image_generation.completed", "message"]


def test_events_have_every_step_and_previews(pipe, folder) -> None:
    gate = Gate()
    with (
        remote_worker(lambda: SlowWorker(pipe, gate)) as (worker, _),
        running_server(
            Pipeline(load_outline(folder)), worker=worker, limits={"preview_seconds": 0}
        ) as server,
        httpx2.Client(base_url=server.url, timeout=30) as client,
    ):
        fields = {"prompt": "a red circle", "num_inference_steps": 4}
        job = client.post("/api/jobs", json=fields).json()
        gate.reached.wait(20)
        with client.stream("GET", f"/api/jobs/{job['id']}/events") as answer:
            stream = events_of(answer)
            assert next(stream)[1]["state"] == "running"
            until(lambda: server.service.live(job["id"], "").watched)
            import time

            time.sleep(0.6)  # the new orders travel while the step lasts
            gate.open.set()
            found = list(stream)
    steps = [data for name, data, _ in found if name == "step"]
    assert [data["step"] for data in steps] == [1, 2, 3, 4]
    assert any("previews" in data for data in steps)
    assert found[-1][1]["state"] == "completed"


def test_cancelling_one_leaves_its_batch_mates(pipe) -> None:
    gate = Gate()
    with (
        remote_worker(lambda: SlowWorker(pipe, gate)) as (worker, _),
        running_engine(worker) as (engine, collected),
    ):
        jobs = [make_job(pipe, "a red circle", (seed,), num_inference_steps=8) for seed in range(3)]
        for job in jobs:
            engine.submit(job)
        engine.start()
        gate.reached.wait(20)
        engine.cancel(jobs[1])
        gate.open.set()
        until(lambda: all(job.finished for job in jobs))
    assert [job.state for job in jobs] == ["completed", "cancelled", "completed"]
    assert set(collected.tokens) == {(jobs[0].id, 0), (jobs[2].id, 0)}


def test_a_cancelled_batch_frees_its_worker(pipe) -> None:
    gate = Gate()
    with (
        remote_worker(lambda: SlowWorker(pipe, gate)) as (worker, _),
        running_engine(worker) as (engine, _),
    ):
        first, second = make_job(pipe, "a red circle"), make_job(pipe, "two dogs")
        engine.start()
        engine.submit(first)
        gate.reached.wait(20)
        engine.cancel(first)
        engine.submit(second)
        until(lambda: second.state == "running")  # although the step of the first one lasts
        gate.open.set()
        until(lambda: second.finished)
    assert (first.state, second.state) == ("cancelled", "completed")


def test_a_fault_fails_its_job_alone(pipe, caplog) -> None:
    with (
        remote_worker(lambda: Poisoned({MODEL: pipe})) as (worker, _),
        running_engine(worker) as (engine, _),
    ):
        jobs = [make_job(pipe, prompt) for prompt in ("a red circle", "a blue square", "a green star")]
        for job in jobs:
            engine.submit(job)
        engine.start()
        until(lambda: all(job.finished for job in jobs))
    assert [job.state for job in jobs] == ["completed", "failed", "completed"]
    assert jobs[1].error.status == 500 and "secret" not in jobs[1].error.message
    assert "poisoned /srv/secret/path" in caplog.text  # the log has the replica's traceback


def test_an_edit_that_cannot_be_prepared_fails_alone(pipe) -> None:
    scene = pipe("a red circle", seed=5)
    source = open_source(pipe.components, scene.images[0], pipe.settings.size, reuse=True)
    bad = EditTask(source, Selection(mask=torch.zeros(8, 8, dtype=torch.bool)))
    with (
        remote_worker(lambda: Worker({MODEL: pipe})) as (worker, _),
        running_engine(worker) as (engine, _),
    ):
        jobs = [make_job(pipe, "two dogs", (1,), bad, operation="edit"), make_job(pipe, "two dogs")]
        for job in jobs:
            engine.submit(job)
        engine.start()
        until(lambda: all(job.finished for job in jobs))
    assert [job.state for job in jobs] == ["failed", "completed"]
    assert jobs[0].error.body()["error"]["param"] == "mask"


def test_what_a_lost_replica_drew_is_drawn_again(pipe, caplog) -> None:
    with (
        remote_worker(lambda: Worker({MODEL: pipe})) as (worker, replica),
        running_engine(worker) as (engine, _),
    ):
        replica.lost = True
        job = make_job(pipe, "a red circle")
        engine.submit(job)
        engine.start()
        until(lambda: job.finished)
    assert job.state == "completed"
    assert "a replica was lost" in caplog.text


def test_a_job_that_is_drawn_for_too_long_ends(pipe) -> None:
    gate = Gate()
    with (
        remote_worker(lambda: SlowWorker(pipe, gate)) as (worker, _),
        running_engine(worker, draw_seconds=0.5) as (engine, _),
    ):
        job = make_job(pipe)
        engine.submit(job)
        engine.start()
        until(lambda: job.finished)
        gate.open.set()
    assert job.error.code == "too_slow"
