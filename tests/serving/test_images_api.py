"""OpenAI's Images API over a real server: raw requests, their answers, streams and errors."""

from __future__ import annotations

import base64
import io
import json

import httpx2
import numpy as np
import pytest
from folders import write_tiny_model
from PIL import Image
from served import events_of, running_server

import smalti


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def server(pipe):
    with running_server(pipe, aliases=["gpt-image-1"]) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with httpx2.Client(base_url=server.url, timeout=30) as made:
        yield made


def draw(client, **fields):
    return client.post("/v1/images/generations", json={"prompt": "a red circle", **fields})


def image_of(entry) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry["b64_json"])))


def png_of(image, **more) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **more)
    return file.getvalue()


@pytest.fixture(scope="module")
def scene(client) -> bytes:
    answer = draw(client, seed=5, num_inference_steps=4)
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def test_a_drawing_is_the_pipeline_s(pipe, client) -> None:
    answer = draw(client, n=2, seed=7, num_inference_steps=4, order="halton")
    assert answer.status_code == 200
    body = answer.json()
    want = pipe(
        "a red circle",
        seed=7,
        num_images_per_prompt=2,
        settings=pipe.settings.replaced(num_inference_steps=4, order="halton"),
    )
    for entry, image in zip(body["data"], want.images, strict=True):
        assert np.array_equal(np.asarray(image_of(entry)), np.asarray(image))
    assert [entry["seed"] for entry in body["data"]] == [7, 8]
    assert body["usage"]["output_tokens"] == 128
    assert body["size"] == "64x64" and body["output_format"] == "png"
    text = image_of(body["data"][0]).info
    assert text["prompt"] == "a red circle" and text["seed"] == "7" and "smalti-tokens" in text
    assert json.loads(text["settings"])["order"] == "halton"


def test_fields_without_effect_are_listed(client) -> None:
    body = draw(client, user="me", style="vivid", moderation="low", background="auto", seed=1).json()
    assert set(body["ignored"]) == {"user", "style", "moderation", "background"}
    body = draw(client, draw="argmax", temperature=0.5, seed=1).json()
    assert body["warnings"] == ["temperature has no effect with draw argmax"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"steps": 4}, "steps"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": "1"}, "n"),
        ({"seed": -1}, "seed"),
        ({"top_p": 2}, "top_p"),
        ({"order": "nonsense"}, "order"),
        ({"num_inference_steps": 1000}, "num_inference_steps"),
        ({"size": "big"}, "size"),
        ({"size": "64x1024"}, "size"),
        ({"height": 65}, "height"),
        ({"height": 2048, "width": 2080}, "height"),
        ({"width": 2**17}, "width"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"image": "data:image/png;base64,AAAA"}, "image"),
        ({"negative_prompt": "a cat", "guidance_scale": 0}, "negative_prompt"),
        ({"strength": 0.5}, "strength"),
        ({"preset": "slow"}, "preset"),
    ],
)
def test_wrong_fields_are_named(client, fields, param) -> None:
    content = json.dumps({"prompt": "a red circle", **fields}).encode()
    answer = client.post(
        "/v1/images/generations", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"] and len(error["message"]) <= 300


def test_an_unknown_model_is_not_found(client) -> None:
    answer = draw(client, model="dall-e-3")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "tiny" in answer.json()["error"]["message"]
    assert draw(client, model="gpt-image-1", num_inference_steps=2).status_code == 200


def test_models_are_listed(client) -> None:
    names = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert names == ["tiny", "gpt-image-1"]
    assert client.get("/v1/models/gpt-image-1").json()["root"] == "tiny"
    assert client.get("/v1/models/none").status_code == 404


def test_sizes_are_resampled(client, pipe) -> None:
    body = draw(client, size="128x128", seed=3, num_inference_steps=4).json()
    entry = body["data"][0]
    assert image_of(entry).size == (128, 128)
    assert (entry["size"], entry["drawn_size"], body["size"]) == ("128x128", "64x64", "128x128")
    wide = draw(client, size="128x64", num_inference_steps=4).json()["data"][0]
    assert image_of(wide).size == (128, 64)
    assert wide["drawn_size"] == "96x48"
    # The tokens in the file are still those of the image.
    again = client.post(
        "/v1/images/variations",
        files={"image": base64.b64decode(entry["b64_json"])},
        data={"strength": "0.2", "seed": "1", "num_inference_steps": "4"},
    )
    assert again.status_code == 200
    assert image_of(again.json()["data"][0]).size == (128, 128)


def test_strict_sizes_are_refused(pipe) -> None:
    with running_server(pipe, strict_size=True) as server, httpx2.Client(base_url=server.url) as client:
        answer = draw(client, size="1024x1024")
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "size" and "64x64" in answer.json()["error"]["message"]
        assert draw(client, size="64x64", num_inference_steps=2).status_code == 200


@pytest.mark.parametrize(("form", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_formats(client, form, kind) -> None:
    body = draw(client, output_format=form, output_compression=80, num_inference_steps=2).json()
    assert image_of(body["data"][0]).format == kind
    assert body["output_format"] == form


def test_quality_stands_for_a_preset(client) -> None:
    low = draw(client, quality="low", seed=1).json()["data"][0]
    fast = draw(client, preset="fast", seed=1).json()["data"][0]
    assert np.array_equal(np.asarray(image_of(low)), np.asarray(image_of(fast)))


def test_urls_lead_to_the_image(client) -> None:
    body = draw(client, response_format="url", num_inference_steps=2).json()
    answer = client.get(body["data"][0]["url"])
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)


def test_metadata_can_be_left_out(client) -> None:
    body = draw(client, metadata=False, num_inference_steps=2).json()
    assert not image_of(body["data"][0]).info


def test_a_stream_has_partial_images_and_ends(client) -> None:
    fields = {
        "prompt": "a red circle",
        "stream": True,
        "partial_images": 2,
        "seed": 3,
        "num_inference_steps": 8,
    }
    with client.stream("POST", "/v1/images/generations", json=fields) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = list(events_of(answer))
    assert [name for name, _, _ in found] == [
        *["image_generation.partial_image"] * 2,
        "image_generation.completed",
        "message",
    ]
    assert [data["partial_image_index"] for _, data, _ in found[:2]] == [0, 1]
    assert found[-1][1] == "[DONE]"
    completed = found[2][1]
    assert completed["type"] == "image_generation.completed" and completed["usage"]["total_tokens"] > 64
    alone = draw(client, seed=3, num_inference_steps=8).json()["data"][0]
    assert np.array_equal(np.asarray(image_of(completed)), np.asarray(image_of(alone)))


def test_an_edit_with_a_mask(client, pipe, scene) -> None:
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 32))
    answer = client.post(
        "/v1/images/edits",
        files={"image": ("scene.png", scene, "image/png"), "mask": ("mask.png", png_of(mask), "image/png")},
        data={"prompt": "a blue square", "seed": "4", "num_inference_steps": "4", "n": "2", "blend": "false"},
    )
    assert answer.status_code == 200, answer.text
    white = np.zeros((64, 64), dtype=bool)
    white[:32, :32] = True
    want = pipe.edit(
        Image.open(io.BytesIO(scene)),
        "a blue square",
        mask=white,
        seed=4,
        num_images_per_prompt=2,
        blend=False,
        num_inference_steps=4,
    )
    before = np.asarray(Image.open(io.BytesIO(scene)))
    for entry, image in zip(answer.json()["data"], want.images, strict=True):
        pixels = np.asarray(image_of(entry))
        assert np.array_equal(pixels, np.asarray(image))
        assert np.array_equal(pixels[:, 32:], before[:, 32:])


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_masks_mean_what_they_say(client, scene, name) -> None:
    white = Image.new("L", (64, 64), 0)
    white.paste(255, (0, 0, 32, 32))
    opaque = white.convert("RGBA")
    alpha = Image.new("RGBA", (64, 64), (255, 255, 255, 255))
    alpha.paste((255, 255, 255, 0), (0, 0, 32, 32))
    results = []
    for mask, mode in (
        (white, "auto"),
        (opaque, "auto"),
        (alpha, "auto"),
        (alpha, "alpha"),
        (white, "white"),
    ):
        answer = client.post(
            "/v1/images/edits",
            files={name: ("s.png", scene, "image/png"), "mask": ("m.png", png_of(mask), "image/png")},
            data={"prompt": "a blue square", "seed": "4", "num_inference_steps": "4", "mask_mode": mode},
        )
        assert answer.status_code == 200, answer.text
        results.append(np.asarray(image_of(answer.json()["data"][0])))
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize(
    ("mask", "hint"),
    [
        (Image.new("L", (64, 64), 0), "empty"),
        (Image.new("L", (64, 64), 255), "everything"),
        (Image.new("L", (32, 32), 255), "64x64"),
        (Image.new("RGB", (64, 64)), "empty"),
    ],
)
def test_bad_masks_are_refused(client, scene, mask, hint) -> None:
    files = {"image": ("s.png", scene, "image/png"), "mask": ("m.png", png_of(mask), "image/png")}
    answer = client.post("/v1/images/edits", files=files, data={"prompt": "a blue square"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "mask" and hint in answer.json()["error"]["message"]


def test_edits_as_json_with_data_urls(client, scene) -> None:
    url = "data:image/png;base64," + base64.b64encode(scene).decode()
    fields = {
        "prompt": "a blue square",
        "images": [{"image_url": url}],
        "strength": 0.3,
        "num_inference_steps": 4,
    }
    assert client.post("/v1/images/edits", json=fields).status_code == 200
    for bad in ("http://127.0.0.1:1/x.png", "file:///etc/passwd", "/etc/passwd", 7, {}):
        answer = client.post("/v1/images/edits", json={**fields, "images": [{"image_url": bad}]})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "image"


def test_an_image_that_is_a_string_is_refused_as_openai_does(client) -> None:
    answer = client.post(
        "/v1/images/edits", data={"prompt": "x", "image": "not a file"}, files={"mask": ("m.png", b"x")}
    )
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["message"] == "Invalid type for 'image': expected a file, but got a string instead."
    assert (error["param"], error["code"]) == ("image", "invalid_type")


def test_a_variation_takes_the_prompt_of_the_file(client, scene) -> None:
    files = {"image": ("scene.png", scene, "image/png")}
    answer = client.post("/v1/images/variations", files=files, data={"num_inference_steps": "4"})
    assert answer.status_code == 200, answer.text
    bare = {"image": ("bare.png", png_of(Image.new("RGB", (64, 64), "red")), "image/png")}
    answer = client.post("/v1/images/variations", files=bare)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"


def test_growing_an_image(client, scene) -> None:
    files = {"image": ("scene.png", scene, "image/png")}
    data = {"prompt": "a red circle", "grow": "16,0,16,0", "num_inference_steps": "4"}
    answer = client.post("/v1/images/edits", files=files, data=data)
    assert answer.status_code == 200, answer.text
    assert image_of(answer.json()["data"][0]).size == (96, 64)


def test_every_answer_has_its_headers(client) -> None:
    for path in ("/health", "/", "/nothing", "/v1/models", "/api/jobs/../../etc/passwd"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert len(headers["x-request-id"]) == 26
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/ready").json()["status"] == "ready"
    assert client.get("/nothing").json()["error"]["code"] == "not_found"
    assert client.get("/v1/images/generations").status_code in (404, 405)


def test_metrics_and_openapi(client) -> None:
    draw(client, num_inference_steps=2)
    text = client.get("/metrics").text
    assert 'smalti_images_total{model="tiny"}' in text and 'route="/v1/images/generations"' in text
    document = client.get("/openapi.json").json()
    fields = document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]
    assert fields["schema"]["properties"]["top_p"]["maximum"] == 1
    info = client.get("/api/info").json()
    assert info["models"][0]["size"] == [64, 64] and "order" in info["settings"]
