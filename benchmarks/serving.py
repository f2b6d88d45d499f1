"""Measure `smalti serve`: throughput, own cost, previews, and two hundred clients at once.

The server runs in a process of its own. On a busy machine its CPU time says more than the clock, so both are shown.
Prints one JSON object.

    python benchmarks/serving.py throughput
    python benchmarks/serving.py load --clients 200 --requests 2000
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2

PROMPT = "a red circle left of a blue square"
_REQUESTS = 20  # that are timed together: the system counts processor time in hundredths of a second


class Server:
    """`smalti serve` on a free port."""

    def __init__(self, model: str | None, *options: str) -> None:
        command = [sys.executable, "-m", "smalti", "serve", "--port", "0", *options]
        self._process = subprocess.Popen(
            command + (["--model", model] if model else []), stderr=subprocess.PIPE, text=True
        )
        atexit.register(self._process.kill)  # also after an error
        assert self._process.stderr is not None
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if found := re.search(r"http://\S+:(\d+)/", line):
                break
        else:
            raise SystemExit("".join(lines))
        # What follows in the log must not fill the pipe.
        self._reader = subprocess.Popen(["cat"], stdin=self._process.stderr, stdout=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{found[1]}"
        while httpx2.get(self.url + "/ready").status_code != 200:
            time.sleep(0.1)

    def cpu(self) -> float:
        """Return the seconds of CPU time that the process has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Return the resident memory of the process in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(120)
        self._reader.wait(10)


def throughput(model: str | None, rounds: int, batch: int) -> dict[str, Any]:
    """Compare requests of `batch` images with the pipeline's batches of as many, in turn; both make PNG files."""
    import smalti
    from smalti.common.images import encode_image

    pipe, server = smalti.load(model), Server(model, "--batch-size", str(batch))
    found: dict[str, list[float]] = {name: [] for name in ("direct", "direct_cpu", "server", "server_cpu")}
    with httpx2.Client(base_url=server.url, timeout=600) as client:
        for index in range(rounds + 1):
            seeds = list(range(index * batch, (index + 1) * batch))
            clock, cpu = time.perf_counter(), time.process_time()
            for image in pipe([PROMPT] * batch, seed=seeds).images:
                encode_image(image, "PNG")
            direct = time.perf_counter() - clock, time.process_time() - cpu
            clock, cpu = time.perf_counter(), server.cpu()
            answer = client.post(
                "/v1/images/generations", json={"prompt": PROMPT, "n": batch, "seed": seeds[0]}
            )
            assert answer.status_code == 200, answer.text
            served = time.perf_counter() - clock, server.cpu() - cpu
            if index:  # the first round warms up
                for name, value in zip(found, (*direct, *served), strict=True):
                    found[name].append(value)
    server.stop()
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {
        "images": rounds * batch,
        **{f"{name}_seconds_an_image": round(value / batch, 4) for name, value in middle.items()},
        "throughput_by_clock": round(sum(found["direct"]) / sum(found["server"]), 3),
        "throughput_by_cpu": round(sum(found["direct_cpu"]) / sum(found["server_cpu"]), 3),
    }


def overhead(model: str | None, rounds: int) -> dict[str, Any]:
    """Return the server's CPU time of a request beyond that of drawing its image and encoding its file.

    Both sides draw in turn, with one thread each: helper threads that wait for work take processor time, too.
    """
    import torch

    import smalti
    from smalti.common.images import encode_image

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    pipe, server = smalti.load(model), Server(model)
    fields = {"prompt": PROMPT, "num_inference_steps": 1, "seed": 1}
    settings = pipe.settings.replaced(num_inference_steps=1)
    costs: dict[str, list[float]] = {name: [] for name in ("drawing", "request", "refused_request", "own")}
    with httpx2.Client(base_url=server.url, timeout=600) as client:

        def ask(body: dict[str, Any]) -> dict[str, Any]:
            return client.post("/v1/images/generations", json=body).json()

        answer = ask(fields)
        for _ in range(rounds):
            cpu = time.process_time()
            for _ in range(_REQUESTS):
                encode_image(pipe(PROMPT, settings=settings, seed=1).images[0], "PNG")
            costs["drawing"].append(time.process_time() - cpu)
            for name, body in (("request", fields), ("refused_request", {**fields, "n": 0})):
                cpu = server.cpu()
                for _ in range(_REQUESTS):
                    ask(body)
                costs[name].append(server.cpu() - cpu)
            costs["own"].append(costs["request"][-1] - costs["drawing"][-1])
    server.stop()
    middle = {name: statistics.median(values) / _REQUESTS for name, values in costs.items()}
    return {
        **{f"{name}_ms": round(1000 * value, 2) for name, value in middle.items()},
        "answer_bytes": len(json.dumps(answer)),
    }


def preview(model: str | None, rounds: int) -> dict[str, Any]:
    """Return the CPU time of jobs with one watching client and without, in turn."""
    server = Server(model)
    cpu: dict[str, list[float]] = {"watched": [], "alone": []}
    clock: dict[str, list[float]] = {"watched": [], "alone": []}
    first, previews = [], 0
    with httpx2.Client(base_url=server.url, timeout=600) as client:
        for index in range(rounds + 1):
            for name in cpu:
                before, started = server.cpu(), time.perf_counter()
                job = client.post("/api/jobs", json={"prompt": PROMPT, "seed": index}).json()
                query = "" if name == "watched" else "?previews=0"
                with client.stream("GET", f"/api/jobs/{job['id']}/events{query}") as answer:
                    seen = False
                    for line in answer.iter_lines():
                        if '"previews"' in line:
                            previews += 1
                            if not seen and index:
                                first.append(time.perf_counter() - started)
                            seen = True
                if index:
                    cpu[name].append(server.cpu() - before)
                    clock[name].append(time.perf_counter() - started)
    server.stop()
    return {
        "jobs": rounds,
        "previews_a_job": round(previews / (rounds + 1), 1),
        "first_preview_seconds": round(statistics.median(first), 3) if first else None,
        "image_seconds": round(statistics.median(clock["watched"]), 3),
        "watched_over_alone_by_cpu": round(sum(cpu["watched"]) / sum(cpu["alone"]), 3),
        "watched_over_alone_by_clock": round(sum(clock["watched"]) / sum(clock["alone"]), 3),
    }


async def _clients(url: str, clients: int, requests: int) -> tuple[dict[int, int], list[str]]:
    """Let clients send requests until so many are answered; return statuses and the jobs of the first client."""
    statuses: dict[int, int] = {}
    jobs: list[str] = []
    left = iter(range(requests))
    limits = httpx2.Limits(max_connections=clients)

    async def client(number: int, http: httpx2.AsyncClient) -> None:
        for index in left:
            path = "/api/jobs" if number == 0 else "/v1/images/generations"
            fields = {"prompt": PROMPT, "seed": index, "num_inference_steps": 2}
            while True:
                answer = await http.post(path, json=fields)
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
                if answer.status_code != 429:
                    break
                await asyncio.sleep(min(float(answer.headers["retry-after"]), 1))
            if number == 0:
                jobs.append(answer.json()["id"])
            else:
                assert answer.json()["data"][0]["seed"] == index

    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        await asyncio.gather(*(client(number, http) for number in range(clients)))
    return statuses, jobs


def load(model: str | None, clients: int, requests: int) -> dict[str, Any]:
    """Send requests from many clients at once, and watch the memory, the answers and the order."""
    server = Server(model, "--queue-per-client", "64", "--most-results", "10000")
    before, started = server.memory(), time.perf_counter()
    statuses, jobs = asyncio.run(_clients(server.url, clients, requests))
    seconds = time.perf_counter() - started
    with httpx2.Client(base_url=server.url, timeout=600) as client:
        found = []
        for name in jobs:
            while (job := client.get(f"/api/jobs/{name}").json())["state"] in ("queued", "running"):
                time.sleep(0.05)
            found.append(job)
    after = server.memory()
    server.stop()
    starts = [job["started"] for job in found]
    return {
        "clients": clients,
        "requests": requests,
        "seconds": round(seconds, 1),
        "statuses": statuses,
        "memory_mb": [round(before), round(after)],
        "jobs": len(found),
        "jobs_completed": sum(job["state"] == "completed" for job in found),
        "jobs_in_order": starts == sorted(starts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=["throughput", "overhead", "preview", "load"], help="what is measured"
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of throughput, overhead and preview")
    parser.add_argument("--batch", type=int, default=8, help="images of a request of throughput")
    parser.add_argument("--clients", type=int, default=200, help="clients of load")
    parser.add_argument("--requests", type=int, default=2000, help="requests of load")
    options = parser.parse_args()
    if options.what == "throughput":
        report = throughput(options.model, options.rounds, options.batch)
    elif options.what == "load":
        report = load(options.model, options.clients, options.requests)
    else:
        report = {"overhead": overhead, "preview": preview}[options.what](options.model, options.rounds)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
