"""Measure the studio in Chromium: from a click to the first preview and to the image, and what previews cost.

    python benchmarks/studio.py [--rounds 9] [--model FOLDER] [--json]

Each round draws the same seed four times: with the pipeline in this process, by a job that nobody follows, by a job
whose previews are followed, and by a click in the studio. The order changes from round to round, and a time is the
median. The server and the browser run on the same machine; `--json` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from serving import PROMPT, Server

import smalti

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from chromium import DESKTOP, FLAGS, find_chromium

_CLICK = """async (seed) => {
    performance.clearMarks();
    const field = document.querySelector('#seed');
    field.value = seed;
    field.dispatchEvent(new Event('input', {bubbles: true}));
    const start = performance.now();
    document.querySelector('#go').click();
    const mark = async (name) => {
        while (!performance.getEntriesByName(name).length) await new Promise((next) => setTimeout(next, 4));
        return performance.getEntriesByName(name)[0].startTime - start;
    };
    const image = await mark('image');
    const seen = performance.getEntriesByName('preview').length;
    return {preview: seen ? await mark('preview') : null, image, seen};
}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="number of rounds")
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    report = measure(options.model, options.rounds)
    if options.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:28} {value:8.3f}")


def measure(model: str | None, rounds: int) -> dict[str, float]:
    """Return medians in seconds, and the ratio of a drawing with previews to one without."""
    from playwright.sync_api import sync_playwright

    pipe, server = smalti.load(model), Server(model)
    found: dict[str, list[float]] = {}
    with sync_playwright() as playwright, httpx2.Client(base_url=server.url, timeout=600) as client:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        page = browser.new_page(viewport=DESKTOP)
        page.goto(server.url)
        page.wait_for_selector("#presets input", state="attached")
        page.fill("#prompt", PROMPT)
        contenders: dict[str, Callable[[int], dict[str, float]]] = {
            "pipeline": lambda seed: _pipeline(pipe, seed),
            "job": lambda seed: {"job": _job(client, seed, watched=False)},
            "watched": lambda seed: {"watched": _job(client, seed, watched=True)},
            "studio": lambda seed: _studio(page, seed),
        }
        order = random.Random("studio")
        for seed in range(rounds + 1):
            for name in order.sample(list(contenders), len(contenders)):
                measured = contenders[name](seed)
                if seed:  # the first round warms everything up
                    for key, value in measured.items():
                        found.setdefault(key, []).append(value)
        browser.close()
    server.stop()
    report = {name: statistics.median(values) for name, values in sorted(found.items())}
    pairs = zip(found["watched"], found["job"], strict=True)
    return {**report, "watched_to_job": statistics.median(one / other for one, other in pairs)}


def _pipeline(pipe: Any, seed: int) -> dict[str, float]:
    clock = time.perf_counter()
    pipe(PROMPT, seed=seed)
    return {"pipeline": time.perf_counter() - clock}


def _job(client: httpx2.Client, seed: int, *, watched: bool) -> float:
    """Return how long a job takes in the server, from its start to its end."""
    job = client.post("/api/jobs", json={"prompt": PROMPT, "seed": seed}).json()
    with client.stream("GET", f"/api/jobs/{job['id']}/events?previews={int(watched)}") as answer:
        for _ in answer.iter_lines():
            pass
    job = client.get(f"/api/jobs/{job['id']}").json()
    return job["ended"] - job["started"]


def _studio(page: Any, seed: int) -> dict[str, float]:
    """Return the seconds from a click to the first preview and to the image."""
    times = page.evaluate(_CLICK, str(seed + 1_000_000))
    found = {"studio_image": times["image"] / 1000, "studio_previews": float(times["seen"])}
    return found if times["preview"] is None else {**found, "studio_first_preview": times["preview"] / 1000}


if __name__ == "__main__":
    main()
