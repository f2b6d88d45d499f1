"""Jobs and results in a folder: they survive a restart and a kill, and nothing is half-written."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from folders import write_tiny_model
from PIL import Image
from served import Gate, SlowWorker, events_of, running_server, until

import smalti
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.serving.errors import ApiError, not_kept
from smalti.serving.ids import new_id
from smalti.serving.store import File, Store


def file_of(job: str, owner: str = "", kind: str = "image", created: float | None = None) -> File:
    return File(
        new_id(), job, owner, kind, "image/png", {"seed": 1}, time.time() if created is None else created
    )


@pytest.fixture(params=["memory", "folder"])
def folder(request, tmp_path) -> Path | None:
    return tmp_path / "kept" if request.param == "folder" else None


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def test_files_come_back_as_they_were(folder) -> None:
    store = Store(folder, 10, 1000)
    file = file_of("j")
    store.add(file, b"content")
    assert store.content(file.id, "") == (file, b"content")
    assert store.images("", 10) == [file]
    with pytest.raises(ApiError) as error:
        store.content(file.id, "somebody else")
    assert error.value.status == 404
    store.delete(file.id, "")
    with pytest.raises(ApiError) as error:
        store.content(file.id, "")
    assert error.value.status == 410
    store.close()


def test_old_files_go_first(folder) -> None:
    store = Store(folder, 3, 100)
    files = [file_of("j", created=float(number)) for number in range(5)]
    for file in files:
        store.add(file, b"x" * 10)
    assert store.images("", 10) == files[:1:-1]
    large = file_of("j", created=9.0)
    store.add(large, b"x" * 85)
    assert store.images("", 10) == [large, files[4]]
    if folder is not None:
        assert len(list((folder / "files").iterdir())) == 2
    store.close()


def test_a_job_goes_with_its_files(folder) -> None:
    store = Store(folder, 10, 1000)
    store.save_job("", {"id": "j", "state": "completed", "created": 1.0})
    files = [file_of("j"), file_of("j", kind="source"), file_of("k")]
    for file in files:
        store.add(file, b"x")
    store.delete_job("j", "")
    assert store.images("", 10) == files[2:]
    with pytest.raises(ApiError) as error:
        store.job("j", "")
    assert error.value.status == 410
    store.close()


def fill(store: Store) -> None:
    """Let the store's disk be full: SQLite then says so, and files fail as they do on such a disk."""
    store._base.execute("PRAGMA max_page_count = 1")  # it is at least what is used already


def empty(store: Store) -> None:
    store._base.execute("PRAGMA max_page_count = 1000000")


def test_a_full_disk_is_said_and_leaves_nothing_behind(pipe, tmp_path) -> None:
    body = {"prompt": "a red circle", "num_inference_steps": 1}
    with running_server(pipe, keep=tmp_path / "kept") as server, httpx2.Client(base_url=server.url) as client:
        store = server.service.store
        fill(store)
        for path, more in (("/api/jobs", {}), ("/v1/images/generations", {"response_format": "url"})):
            tries = (
                client.post(path, json={**body, **more}) for _ in range(100)
            )  # used pages have some room
            answer = next(answer for answer in tries if answer.status_code not in (200, 202, 429))
            assert answer.status_code == 507 and answer.headers["x-should-retry"] == "false"
            assert answer.json()["error"]["code"] == "storage_full" and str(tmp_path) not in answer.text
        until(
            lambda: all(
                job["state"] in ("completed", "failed") for job in client.get("/api/jobs").json()["data"]
            )
        )
        assert client.post("/v1/images/generations", json=body).status_code == 200  # nothing of it is kept
        kept = {row[0] for row in store._base.execute("SELECT id FROM files")}
        assert {path.name for path in (tmp_path / "kept" / "files").iterdir()} == kept
        empty(store)
        answer = client.post("/api/jobs", json=body)
        assert answer.status_code == 202
        until(lambda: client.get(f"/api/jobs/{answer.json()['id']}").json()["state"] == "completed")
        until(lambda: not server.service._live)
        states = {row[0] for row in store._base.execute("SELECT state FROM jobs")}
        assert states <= {"completed", "failed"}  # also those whose end the full disk did not take


def test_an_end_that_cannot_be_written_is_seen_all_the_same(pipe, tmp_path, monkeypatch) -> None:
    worker = SlowWorker(pipe, seconds=0.05)
    with running_server(pipe, worker=worker, keep=tmp_path / "kept") as server:
        with httpx2.Client(base_url=server.url) as client:
            name = client.post("/api/jobs", json={"prompt": "a red circle"}).json()["id"]

            def fail(record: dict) -> None:
                raise not_kept()

            with monkeypatch.context() as patch:
                patch.setattr(server.service.store, "update_job", fail)
                with client.stream("GET", f"/api/jobs/{name}/events") as events:
                    assert [event for event, _, _ in events_of(events)][-2:] == ["completed", "job"]
                assert client.get(f"/api/jobs/{name}").json()["state"] == "completed"
                assert client.get("/api/jobs").json()["data"][0]["state"] == "completed"
            assert client.delete(f"/api/jobs/{name}").status_code == 204
            assert client.get(f"/api/jobs/{name}").status_code == 410


def test_a_killed_server_s_jobs_are_marked(tmp_path) -> None:
    store = Store(tmp_path, 10, 1000)
    for name, state in (("a", "queued"), ("b", "running"), ("c", "completed")):
        store.save_job("", {"id": name, "state": state, "created": 1.0, "results": []})
    half, lost = file_of("b"), file_of("c")
    store.add(half, b"x")
    store.add(lost, b"x")
    store.close()
    (tmp_path / "files" / lost.id).unlink()
    (tmp_path / "files" / ".half.smalti-abcdefgh").write_bytes(b"x")
    store = Store(tmp_path, 10, 1000)
    assert [store.job(name, "")["state"] for name in "abc"] == ["failed", "failed", "completed"]
    assert store.job("a", "")["error"]["code"] == "server_stopped"
    assert [entry["id"] for entry in store.job("b", "")["results"]] == [half.id]
    assert [path.name for path in (tmp_path / "files").iterdir()] == [half.id]
    with pytest.raises(ApiError) as error:
        store.content(lost.id, "")
    assert error.value.status == 410
    store.close()


def test_one_server_uses_a_folder_at_a_time(tmp_path) -> None:
    store = Store(tmp_path, 10, 1000)
    with pytest.raises(SmaltiError, match="another server"):
        Store(tmp_path, 10, 1000)
    store.close()
    Store(tmp_path, 10, 1000).close()
    (tmp_path / "smalti.db").write_bytes(b"no data base" * 100)
    with pytest.raises(SmaltiError, match="keep"):
        Store(tmp_path, 10, 1000)


def test_a_restart_keeps_jobs_and_results(tmp_path) -> None:
    pipe = smalti.load(write_tiny_model(tmp_path / "tiny"))
    with running_server(pipe, keep=tmp_path / "kept") as server, httpx2.Client(base_url=server.url) as client:
        name = client.post("/api/jobs", json={"prompt": "a red circle", "num_inference_steps": 4}).json()[
            "id"
        ]
        job = until(
            lambda: (found := client.get(f"/api/jobs/{name}").json())["state"] == "completed" and found
        )
        content = client.get(job["results"][0]["url"]).content
    with running_server(pipe, keep=tmp_path / "kept") as server, httpx2.Client(base_url=server.url) as client:
        assert client.get(f"/api/jobs/{name}").json() == job
        assert client.get(job["results"][0]["url"]).content == content
        assert client.get("/api/results").json()["data"][0]["id"] == job["results"][0]["id"]


class Process:
    """`smalti serve` with a tiny model, in a process of its own."""

    def __init__(self, model: Path, *options: str) -> None:
        command = [sys.executable, "-m", "smalti", "serve", "--model", str(model), "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://\S+:(\d+)/", line):
                self.url = f"http://127.0.0.1:{found[1]}"
                return
        raise AssertionError("the server did not start")

    def end(self, sig: int) -> tuple[int, str]:
        self.process.send_signal(sig)
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_kill_9_with_fifty_jobs(tmp_path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    options = ("--keep", str(tmp_path / "kept"), "--queue-per-client", "64")
    server = Process(model, *options)
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        names = [
            client.post(
                "/api/jobs", json={"prompt": "a red circle", "num_inference_steps": 30 + number % 7}
            ).json()["id"]
            for number in range(50)
        ]
        states = lambda: [job["state"] for job in client.get("/api/jobs?limit=200").json()["data"]]  # noqa: E731
        until(lambda: states().count("completed") >= 5)
        before = {job["id"]: job for job in client.get("/api/jobs?limit=200").json()["data"]}
        server.end(signal.SIGKILL)
    done = {name for name, job in before.items() if job["state"] == "completed"}
    assert 5 <= len(done) < 50
    server = Process(model, *options)
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        for name in names:
            job = client.get(f"/api/jobs/{name}").json()
            assert job["state"] in ("completed", "failed")
            if name in done:
                assert job["state"] == "completed"
            for result in job["results"] if job["state"] == "completed" else []:
                image = Image.open(io.BytesIO(client.get(result["url"]).content))
                image.load()
        listed = client.get("/api/results?limit=200").json()["data"]
        assert len(listed) >= len(done)
        for entry in listed:
            assert client.get(entry["url"]).status_code == 200
    code, _ = server.end(signal.SIGTERM)
    assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_sigterm_finishes_what_was_accepted(tmp_path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    server = Process(model, "--keep", str(tmp_path / "kept"), "--batch-size", "1")
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        names = [
            client.post("/api/jobs", json={"prompt": "a red circle", "num_inference_steps": 40}).json()["id"]
            for _ in range(6)
        ]
        fields = {"prompt": "a red circle", "stream": True, "partial_images": 1}
        with client.stream("POST", "/v1/images/generations", json=fields) as answer:
            server.process.send_signal(signal.SIGTERM)
            text = "".join(answer.iter_text())
        assert "image_generation.completed" in text and text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx2.TransportError):
            httpx2.post(server.url + "/api/jobs", json={"prompt": "x"})
    _, log = server.process.communicate(timeout=60)
    assert "Traceback" not in log and "a red circle" not in log
    store = Store(tmp_path / "kept", 100, 10**9)
    assert [store.job(name, "")["state"] for name in names] == ["completed"] * 6
    store.close()


def test_what_is_not_done_in_time_is_answered_before_the_end(tmp_path) -> None:
    pipe, gate = smalti.load(write_tiny_model(tmp_path / "tiny")), Gate()
    with (
        ThreadPoolExecutor(2) as threads,
        running_server(
            pipe, worker=SlowWorker(pipe, gate), limits={"drain_seconds": 0.3, "batch": 1}
        ) as server,
    ):
        fields = {"prompt": "a red circle", "num_inference_steps": 4}
        url = server.url + "/v1/images/generations"
        coming = [threads.submit(httpx2.post, url, json=fields, timeout=30) for _ in range(2)]
        gate.reached.wait(20)
        until(lambda: len(server.service.engine.queue) == 1)
        server.server.handle_exit(signal.SIGTERM, None)
        for answer in coming:
            assert answer.result().status_code == 503
            assert answer.result().json()["error"]["code"] == "shutting_down"
        gate.open.set()


def test_the_command_refuses_what_cannot_work(tmp_path, capsys, monkeypatch) -> None:
    def run(*options: str) -> str:
        assert main(["serve", *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    keys = tmp_path / "keys"
    keys.write_text("short\n")
    assert "--host must be loopback without keys" in run("--host", "0.0.0.0")
    assert "--api-key-file must hold" in run("--api-key-file", str(keys))
    assert "--port must be" in run("--port", "70000")
    assert "does not exist" in run("--api-key-file", str(tmp_path / "none"))
    assert "--cors-origin must be like" in run("--cors-origin", "*")
    assert "--batch-size must be" in run("--batch-size", "0")
    with closing(Store(tmp_path / "kept", 1, 1)):
        assert "another server uses it" in run("--keep", str(tmp_path / "kept"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port must be free" in run("--port", str(taken.getsockname()[1]))
    monkeypatch.setenv("SMALTI_API_KEYS", "short")
    assert "SMALTI_API_KEYS" in run()
    monkeypatch.delenv("SMALTI_API_KEYS")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "smalti.serving.run", raising=False)
    monkeypatch.delattr("smalti.serving.run", raising=False)
    assert "pip install 'smalti[serve]'" in run()


def test_records_are_json(tmp_path) -> None:
    store = Store(tmp_path, 10, 1000)
    store.save_job("", {"id": "j", "state": "completed", "created": 1.0, "prompt": "é\u2028'\""})
    assert json.loads(json.dumps(store.job("j", "")))["prompt"] == "é\u2028'\""
    store.close()
