"""Jobs over a real server: events that resume, cancellation, results, owners, selections."""

from __future__ import annotations

import base64
import io

import httpx2
import numpy as np
import pytest
from folders import write_tiny_model
from PIL import Image
from served import Gate, SlowWorker, events_of, running_server, until

import smalti

KEYS = ["a-key-of-one-user-1", "a-key-of-another-2"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def server(pipe):
    with running_server(pipe) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with httpx2.Client(base_url=server.url, timeout=30) as made:
        yield made


def create(client, **fields):
    answer = client.post("/api/jobs", json={"prompt": "a red circle", "num_inference_steps": 4, **fields})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/api/jobs/{answer.json()['id']}"
    return answer.json()


def follow(client, name, **headers):
    with client.stream("GET", f"/api/jobs/{name}/events", headers=headers) as answer:
        if answer.status_code == 204:
            return None
        assert answer.status_code == 200
        return list(events_of(answer))


def ended(client, name):
    def find():
        job = client.get(f"/api/jobs/{name}").json()
        return job if job["state"] in ("completed", "failed", "cancelled") else None

    return until(find)


def draw_png(client, **fields) -> bytes:
    body = client.post(
        "/v1/images/generations", json={"prompt": "a red circle", "num_inference_steps": 4, **fields}
    ).json()
    return base64.b64decode(body["data"][0]["b64_json"])


def test_a_job_from_its_start_to_its_result(client, pipe) -> None:
    job = create(client, n=2, seed=3)
    assert job["state"] in ("queued", "running") and job["seeds"] == [3, 4]
    found = follow(client, job["id"])
    assert found[0][0] == "job" and found[-1][0] == "job"
    last = found[-1][1]
    assert last["state"] == "completed" and last["progress"]["images"] == 2
    assert ended(client, job["id"]) == last
    settings = pipe.settings.replaced(num_inference_steps=4)
    want = pipe("a red circle", settings=settings, seed=3, num_images_per_prompt=2)
    for result, image in zip(last["results"], want.images, strict=True):
        content = client.get(result["url"])
        assert content.headers["content-type"] == "image/png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content.content))), np.asarray(image))
        small = Image.open(io.BytesIO(client.get(result["thumbnail"]).content))
        assert small.format == "WEBP" and max(small.size) <= 256
    assert client.get("/api/jobs?limit=1").json()["data"][0]["id"] == job["id"]
    gallery = client.get("/api/results?limit=2").json()["data"]
    assert {entry["id"] for entry in gallery} == {entry["id"] for entry in last["results"]}
    older = client.get("/api/results", params={"before": gallery[-1]["created"]}).json()["data"]
    assert not {entry["id"] for entry in older} & {entry["id"] for entry in gallery}


def test_events_have_previews_while_someone_watches(pipe) -> None:
    gate = Gate()
    worker = SlowWorker(pipe, gate)
    limits = {"preview_seconds": 0}
    with (
        running_server(pipe, worker=worker, limits=limits) as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        job = create(client, order="halton", revision="none")
        gate.reached.wait(20)
        with client.stream("GET", f"/api/jobs/{job['id']}/events") as answer:
            stream = events_of(answer)
            assert next(stream)[1]["state"] == "running"
            gate.open.set()
            found = list(stream)
        steps = [data for name, data, _ in found if name == "step"]
        assert [data["step"] for data in steps] == [1, 2, 3, 4]
        assert "previews" not in steps[0] and all("previews" in data for data in steps[1:])
        preview = steps[-1]["previews"][0]
        assert preview["grid"] == [8, 8]
        assert len(base64.b64decode(preview["colors"])) == 8 * 8 * 3
        assert base64.b64decode(preview["known"]) == b"\xff" * 8
        assert [sum(one["revealed"] for one in data["images"]) for data in steps][-1] > 0
        assert worker.candidates[:2] == [False, True]
        worker.candidates.clear()
        ended(client, create(client)["id"])
        follow_nothing = client.get(f"/api/jobs/{create(client)['id']}/events?previews=0")
        assert "previews" not in follow_nothing.text
        assert not any(worker.candidates)


def test_previews_are_at_most_so_many_a_second(pipe) -> None:
    worker = SlowWorker(pipe, seconds=0.02)
    with running_server(pipe, worker=worker) as server, httpx2.Client(base_url=server.url) as client:
        job = create(client, num_inference_steps=32)
        found = follow(client, job["id"])
        seconds = ended(client, job["id"])["ended"] - ended(client, job["id"])["started"]
    previews = [data for name, data, _ in found if name == "step" and "previews" in data]
    assert 1 <= len(previews) <= seconds / 0.25 + 2


def test_a_client_that_comes_back_misses_nothing(pipe) -> None:
    gate = Gate()
    with running_server(pipe, worker=SlowWorker(pipe, gate)) as server:
        with httpx2.Client(base_url=server.url) as client:
            job = create(client)
            gate.reached.wait(20)
            with client.stream("GET", f"/api/jobs/{job['id']}/events") as answer:
                number = next(events_of(answer))[2]
            # The connection is gone, the job is not.
            assert client.get(f"/api/jobs/{job['id']}").json()["state"] == "running"
            with client.stream(
                "GET", f"/api/jobs/{job['id']}/events", headers={"last-event-id": str(number)}
            ) as answer:
                gate.open.set()
                found = list(events_of(answer))
            numbers = [number for _, _, number in found]
            assert found[0][0] != "job" and numbers[:3] == [number + 1, number + 2, number + 3]
            assert found[-1][1]["state"] == "completed"
            assert follow(client, job["id"], **{"last-event-id": str(numbers[-1])}) is None
            assert [name for name, _, _ in follow(client, job["id"])] == ["job"]
            # A number that the server never gave brings the job as it is.
            assert follow(client, job["id"], **{"last-event-id": "nonsense"})[0][0] == "job"


def test_two_tabs_see_the_same_job(pipe) -> None:
    gate = Gate()
    with (
        running_server(pipe, worker=SlowWorker(pipe, gate)) as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        job = create(client)
        gate.reached.wait(20)
        path = f"/api/jobs/{job['id']}/events"
        with client.stream("GET", path) as one, client.stream("GET", path) as other:
            first, second = events_of(one), events_of(other)
            assert next(first)[1]["id"] == next(second)[1]["id"] == job["id"]
            gate.open.set()
            assert [name for name, _, _ in first][-1] == [name for name, _, _ in second][-1] == "job"


def test_cancelling_running_and_waiting_jobs(pipe) -> None:
    gate = Gate()
    with (
        running_server(pipe, worker=SlowWorker(pipe, gate)) as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        running = create(client)
        gate.reached.wait(20)
        waiting = [create(client, num_inference_steps=steps) for steps in (5, 6, 7)]
        states = [client.get(f"/api/jobs/{job['id']}").json() for job in waiting]
        assert [state["position"] for state in states] == [0, 1, 2]
        cancelled = client.post(f"/api/jobs/{waiting[0]['id']}/cancel").json()
        assert cancelled["state"] == "cancelled"
        assert client.post(f"/api/jobs/{waiting[0]['id']}/cancel").json() == cancelled
        assert client.get(f"/api/jobs/{waiting[1]['id']}").json()["position"] == 0
        assert client.get(f"/api/jobs/{running['id']}").json()["state"] == "running"
        assert client.post(f"/api/jobs/{running['id']}/cancel").json()["state"] == "cancelled"
        gate.open.set()
        assert [ended(client, job["id"])["state"] for job in waiting[1:]] == ["completed"] * 2
        names = {data["id"] for _, data, _ in follow(client, running["id"])}
        assert names == {running["id"]}


def test_a_synchronous_client_that_goes_away_ends_its_request(pipe) -> None:
    gate = Gate()
    with running_server(pipe, worker=SlowWorker(pipe, gate)) as server:
        with httpx2.Client(base_url=server.url, timeout=0.3) as client:
            with pytest.raises(httpx2.TimeoutException):
                client.post("/v1/images/generations", json={"prompt": "a red circle"})
            fields = {"prompt": "a red circle", "stream": True, "partial_images": 1}
            with pytest.raises(httpx2.TimeoutException):
                with client.stream("POST", "/v1/images/generations", json=fields) as answer:
                    list(answer.iter_lines())
        gate.open.set()
        until(lambda: 'state="cancelled"} 2.0' in httpx2.get(server.url + "/metrics").text)


def test_edits_as_jobs(client) -> None:
    png = draw_png(client, seed=5)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 16, 16))
    file = io.BytesIO()
    mask.save(file, "PNG")
    answer = client.post(
        "/api/jobs",
        files={"image": ("a.png", png, "image/png"), "mask": ("m.png", file.getvalue(), "image/png")},
        data={"operation": "edit", "prompt": "a blue square", "num_inference_steps": "3"},
    )
    assert answer.status_code == 202, answer.text
    job = ended(client, answer.json()["id"])
    assert job["state"] == "completed", job
    assert job["region"]["grid"] == [8, 8] and job["region"]["chosen"] == 4
    assert job["region"]["rows"][0] == "11000000"
    assert client.get(f"/api/results/{job['source']}/content").content == png
    kept = Image.open(io.BytesIO(client.get(f"/api/results/{job['mask']}/content").content))
    assert np.array_equal(np.asarray(kept.convert("L")), np.asarray(mask))
    assert job["mask"] not in client.get("/api/results").text
    names = [name for name, _, _ in follow(client, job["id"])]
    assert names == ["job"]


def test_jobs_refuse_what_is_wrong(client) -> None:
    for fields, param in (
        ({"prompt": "x", "operation": "fly"}, "operation"),
        ({"prompt": "x", "stream": True}, "stream"),
        ({"prompt": "x", "image": "data:image/png;base64,AAAA"}, "image"),
        ({"prompt": "x", "operation": "edit"}, "image"),
        ({"operation": "generation"}, "prompt"),
        ({"prompt": "x", "nonsense": 1}, "nonsense"),
    ):
        answer = client.post("/api/jobs", json=fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert client.post("/api/jobs", content=b"prompt=x").status_code == 415


@pytest.mark.parametrize(
    "name", ["x", "..", "%2e%2e%2fsmalti.db", "a" * 26, "A" * 26, "a" * 5000, "%00" * 26, "é" * 26]
)
def test_unknown_names_are_not_found(client, name) -> None:
    for path in (
        f"/api/jobs/{name}",
        f"/api/results/{name}/content",
        f"/api/results/{name}",
        f"/api/selections/{name}",
    ):
        answer = client.get(f"/api/{path}")
        assert answer.status_code == 404, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert client.post(f"/api/jobs/{name}/cancel").status_code in (404, 405)
    assert client.delete(f"/api/results/{name}").status_code in (404, 405)


def test_what_is_deleted_or_expired_is_gone(pipe) -> None:
    with running_server(pipe, limits={"results": 2}) as server, httpx2.Client(base_url=server.url) as client:
        jobs = [ended(client, create(client, seed=seed)["id"]) for seed in range(3)]
        assert client.get(f"/api/jobs/{jobs[0]['id']}").status_code == 410
        gone = client.get(jobs[0]["results"][0]["url"])
        assert gone.status_code == 410 and gone.json()["error"]["code"] == "expired"
        assert client.get(jobs[2]["results"][0]["url"]).status_code == 200
        assert client.delete(f"/api/results/{jobs[2]['results'][0]['id']}").status_code == 204
        assert client.get(jobs[2]["results"][0]["url"]).status_code == 410
        assert client.delete(f"/api/jobs/{jobs[1]['id']}").status_code == 204
        assert client.get(jobs[1]["results"][0]["url"]).status_code == 410
        assert client.get(f"/api/jobs/{jobs[1]['id']}/events").status_code == 410


def test_owners_see_their_own_jobs(pipe) -> None:
    with running_server(pipe, keys=KEYS) as server:
        users = [
            httpx2.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}) for key in KEYS
        ]
        job = ended(users[0], create(users[0])["id"])
        assert users[1].get(f"/api/jobs/{job['id']}").status_code == 404
        assert users[1].get(job["results"][0]["url"]).status_code == 404
        assert users[1].get("/api/jobs").json()["data"] == []
        assert users[1].get("/api/results").json()["data"] == []
        assert users[1].delete(f"/api/jobs/{job['id']}").status_code == 404
        assert users[0].get("/api/results").json()["data"][0]["job"] == job["id"]
        for user in users:
            user.close()


def test_selections_try_out_thresholds(client, pipe) -> None:
    png = draw_png(client, seed=5)
    answer = client.post(
        "/api/selections",
        files={"image": ("a.png", png, "image/png")},
        data={"prompt": "a blue square left of a yellow star"},
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert np.array(body["loss"]).shape == (8, 8)
    few = client.get(f"/api/selections/{body['id']}", params={"share": 0.1}).json()["region"]
    many = client.get(f"/api/selections/{body['id']}", params={"share": 0.5}).json()["region"]
    assert few["chosen"] == 6 and many["chosen"] == 32
    assert client.get(f"/api/selections/{body['id']}?threshold=0.5").status_code == 200
    for query in ("threshold=2", "share=0", "threshold=0.1&share=0.1", "threshold=nan", "share=x"):
        assert client.get(f"/api/selections/{body['id']}?{query}").status_code == 400
    edited = client.post(
        "/api/jobs",
        files={"image": ("a.png", png, "image/png")},
        data={
            "operation": "edit",
            "prompt": "a blue square left of a yellow star",
            "share": "0.1",
            "num_inference_steps": "3",
        },
    )
    # As many passes as the selection had give the same region.
    assert ended(client, edited.json()["id"])["region"]["chosen"] == 6
