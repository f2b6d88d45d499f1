"""The server and requests that are wrong: an error object each time, and it goes on."""

from __future__ import annotations

import logging

import httpx2
import pytest
from bad_requests import bad_request, fault
from folders import write_tiny_model
from served import running_server

import smalti


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 150), pytest.param(1, 400, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_bad_requests(tmp_path, caplog, seed, count) -> None:
    pipe = smalti.load(write_tiny_model(tmp_path / "tiny"))
    caplog.set_level(logging.WARNING, "smalti.serving")
    found = []
    with running_server(
        pipe, limits={"body_bytes": 200_000, "waiting": 500, "waiting_per_client": 500}
    ) as server:
        with httpx2.Client(base_url=server.url, timeout=30) as client:
            for index in range(count):
                description, send = bad_request(seed, index)
                if wrong := fault(send(client)):
                    found.append(f"{description}: {wrong}")
            answer = client.post(
                "/v1/images/generations", json={"prompt": "a red circle", "num_inference_steps": 2}
            )
            assert answer.status_code == 200
    assert not found, "\n".join(found)
    assert not [record for record in caplog.records if record.name == "smalti.serving"]
