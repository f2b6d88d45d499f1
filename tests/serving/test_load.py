"""Many clients at once, and the promise that a batch changes no image, with the bundled model."""

from __future__ import annotations

import asyncio
import base64
import io

import httpx2
import numpy as np
import pytest
from folders import write_tiny_model
from PIL import Image
from served import running_server

import smalti

COLORS = ["red", "blue", "green", "yellow"]


@pytest.mark.slow
def test_many_clients_are_all_answered(tmp_path) -> None:
    pipe = smalti.load(write_tiny_model(tmp_path / "tiny"))
    statuses: list[int] = []

    async def client(http: httpx2.AsyncClient, number: int) -> None:
        for index in range(5):
            seed = 100 * number + index
            fields = {"prompt": "a red circle", "seed": seed, "num_inference_steps": 2}
            while True:
                answer = await http.post("/v1/images/generations", json=fields)
                statuses.append(answer.status_code)
                if answer.status_code != 429:
                    break
                await asyncio.sleep(0.05)
            assert answer.json()["data"][0]["seed"] == seed

    async def run(url: str) -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60, limits=httpx2.Limits()) as http:
            await asyncio.gather(*(client(http, number) for number in range(30)))

    with running_server(pipe, limits={"waiting": 16, "waiting_per_client": 16}) as server:
        asyncio.run(run(server.url))
        text = httpx2.get(server.url + "/metrics").text
    assert statuses.count(200) == 150 and set(statuses) == {200, 429}
    assert 'smalti_images_total{model="tiny"} 150.0' in text
    batches = float(text.split("smalti_batch_images_count ")[1].split("\n")[0])
    assert batches < 100


@pytest.mark.slow
def test_a_batch_of_the_bundled_model_changes_no_image() -> None:
    pipe = smalti.load("scenes")
    prompts = [f"a {one} circle left of a {other} square" for one in COLORS for other in COLORS[:2]]

    async def run(url: str) -> list[bytes]:
        async with httpx2.AsyncClient(base_url=url, timeout=120) as http:
            answers = await asyncio.gather(
                *(
                    http.post(
                        "/v1/images/generations", json={"prompt": prompt, "seed": seed, "preset": "fast"}
                    )
                    for seed, prompt in enumerate(prompts)
                )
            )
        return [base64.b64decode(answer.json()["data"][0]["b64_json"]) for answer in answers]

    with running_server(pipe, name="scenes") as server:
        files = asyncio.run(run(server.url))
        text = httpx2.get(server.url + "/metrics").text
    assert float(text.split("smalti_batch_images_count ")[1].split("\n")[0]) < len(prompts)
    for seed, (prompt, content) in enumerate(zip(prompts, files, strict=True)):
        alone = pipe(prompt, seed=seed, preset="fast").images[0]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(alone)), prompt
