"""Clients that others wrote, unchanged: OpenAI's for Python and npm, Vercel's AI SDK, what Open WebUI sends."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import httpx2
import openai
import pytest
from folders import write_tiny_model
from PIL import Image
from served import MODEL, Gate, running_server

import smalti
from smalti.serving.worker import Worker

CLIENTS = Path(__file__).parent / "clients"
KEY = "a-secret-key-of-a-test"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def server(pipe):
    with running_server(pipe, aliases=["gpt-image-1"], keys=[KEY]) as running:
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0) as made:
        yield made


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def opened(entry) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry.b64_json)))


@pytest.fixture
def scene(client) -> bytes:
    answer = client.images.generate(prompt="a red circle", model="gpt-image-1", extra_body={"seed": 5})
    return base64.b64decode(answer.data[0].b64_json)


def mask() -> bytes:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 32))
    return png(image)


class TestOpenAI:
    def test_generate(self, client) -> None:
        answer = client.images.generate(
            prompt="a red circle",
            model="gpt-image-1",
            n=2,
            size="128x128",
            quality="low",
            output_format="webp",
            output_compression=90,
            background="opaque",
            moderation="low",
            user="me",
            extra_body={"seed": 3, "guidance_scale": 1.5, "guidance_interval": [0.1, 0.9]},
        )
        assert [opened(entry).size for entry in answer.data] == [(128, 128)] * 2
        assert answer.output_format == "webp" and answer.size == "128x128"
        assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
        assert [entry.seed for entry in answer.data] == [3, 4]

    def test_edit(self, client, scene) -> None:
        fields = {"seed": 4, "num_inference_steps": 4, "guidance_interval": [0.1, 0.9], "keep_pixels": True}
        one = client.images.edit(
            image=("scene.png", scene),
            mask=("mask.png", mask()),
            prompt="a blue square",
            model="gpt-image-1",
            extra_body=fields,
        )
        listed = client.images.edit(
            image=[("scene.png", scene)], mask=("mask.png", mask()), prompt="a blue square", extra_body=fields
        )
        assert one.data[0].b64_json == listed.data[0].b64_json
        before, after = Image.open(io.BytesIO(scene)), opened(one.data[0])
        assert after.crop((48, 48, 64, 64)).tobytes() == before.crop((48, 48, 64, 64)).tobytes()
        assert after.tobytes() != before.tobytes()

    def test_variation(self, client, scene) -> None:
        with pytest.warns(DeprecationWarning):
            answer = client.images.create_variation(image=("scene.png", scene), n=2, size="256x256")
        assert [opened(entry).size for entry in answer.data] == [(256, 256)] * 2

    def test_streams(self, client, scene) -> None:
        kinds = []
        for event in client.images.generate(prompt="a red circle", stream=True, partial_images=2):
            kinds.append(event.type)
            assert opened(event).size == (64, 64)
        assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
        edited = client.images.edit(
            image=("a.png", scene), mask=("m.png", mask()), prompt="a star", stream=True, partial_images=1
        )
        assert [event.type for event in edited] == ["image_edit.partial_image", "image_edit.completed"]

    def test_models(self, client) -> None:
        assert [model.id for model in client.models.list()] == [MODEL, "gpt-image-1"]
        assert client.models.retrieve("gpt-image-1").owned_by == "smalti"

    def test_errors(self, client, server, scene) -> None:
        with pytest.raises(openai.BadRequestError) as error:
            client.images.generate(prompt="a red circle", n=11)
        assert error.value.param == "n" and error.value.code == "invalid_value"
        assert error.value.request_id
        with pytest.raises(openai.BadRequestError) as error:
            client.images.generate(prompt="a red circle", extra_body={"steps": 3})
        assert (error.value.param, error.value.code) == ("steps", "unknown_parameter")
        with pytest.raises(openai.NotFoundError) as error:
            client.images.generate(prompt="a red circle", model="dall-e-3")
        assert error.value.code == "model_not_found"
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="another-key-that-is-wrong").models.list()
        with pytest.raises(openai.BadRequestError) as error:
            client.images.edit(image=("a.png", b"nothing"), prompt="x")
        assert error.value.param == "image"
        with pytest.raises(openai.NotFoundError):
            client.get("/images/nothing", cast_to=object)


class GatedWorker(Worker):
    def __init__(self, pipe, gate, poison="") -> None:
        super().__init__({MODEL: pipe})
        self.gate, self.poison = gate, poison

    def draw(self, pieces, watch) -> None:
        self.gate.pass_through()
        if pieces[0].task.prompt == self.poison:
            raise RuntimeError("poisoned")
        super().draw(pieces, watch)


def test_a_full_queue_is_tried_again(pipe) -> None:
    gate = Gate()
    limits = {"waiting": 1}
    with running_server(pipe, worker=GatedWorker(pipe, gate), limits=limits) as server:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            fields = {"prompt": "a red circle"}
            httpx2.post(server.url + "/api/jobs", json=fields)
            gate.reached.wait(20)
            httpx2.post(server.url + "/api/jobs", json={**fields, "num_inference_steps": 3})
            with pytest.raises(openai.RateLimitError) as error:
                client.images.generate(**fields)
            assert error.value.code == "queue_full" and int(error.value.response.headers["retry-after"]) >= 1
            assert httpx2.get(server.url + "/ready").status_code == 503
            threading.Timer(0.3, gate.open.set).start()
            assert client.with_options(max_retries=3).images.generate(**fields).data


def test_a_fault_of_the_server_is_not_tried_again(pipe) -> None:
    gate = Gate()
    gate.open.set()
    with running_server(pipe, worker=GatedWorker(pipe, gate, "poison")) as server:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=5) as client:
            with pytest.raises(openai.InternalServerError) as error:
                client.images.generate(prompt="poison")
            assert "poisoned" not in error.value.message
            with pytest.raises(openai.APIError):
                list(client.images.generate(prompt="poison", stream=True))
            assert client.images.generate(prompt="a red circle").data
        # Two requests, none of them repeated.
        assert 'smalti_jobs_ended_total{state="failed"} 2.0' in httpx2.get(server.url + "/metrics").text


OPEN_WEBUI = json.loads((CLIENTS / "open_webui.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("request_", OPEN_WEBUI["generations"], ids=lambda one: one["name"])
def test_open_webui_draws(server, request_) -> None:
    answer = httpx2.post(
        server.url + "/v1/images/generations",
        json=request_["json"],
        headers={**OPEN_WEBUI["headers"], "authorization": f"Bearer {KEY}"},
    )
    assert answer.status_code == 200, answer.text
    for entry in answer.json()["data"]:
        if "url" in entry:
            found = httpx2.get(entry["url"], headers={"authorization": f"Bearer {KEY}"})
            assert found.headers["content-type"].startswith("image/")
        else:
            assert base64.b64decode(entry["b64_json"]).startswith(b"\x89PNG")


@pytest.mark.parametrize("request_", OPEN_WEBUI["edits"], ids=lambda one: one["name"])
def test_open_webui_edits(server, scene, request_) -> None:
    files = [(request_["file"], ("image.png", scene, "image/png"))]
    answer = httpx2.post(
        server.url + "/v1/images/edits",
        data=request_["form"],
        files=files,
        headers={"authorization": f"Bearer {KEY}"},
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("node") is None or not (CLIENTS / "node_modules").is_dir(),
    reason="the npm clients are not installed: npm install in tests/serving/clients",
)
def test_npm_clients(server, tmp_path) -> None:
    done = subprocess.run(
        ["node", str(CLIENTS / "clients.mjs")],
        env={**os.environ, "SMALTI_URL": server.url, "SMALTI_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["openai", "ai"]
