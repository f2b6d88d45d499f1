"""The limits of a server, in one place; docs/serving.md has them as a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of what a client may ask for and of what the server keeps.

    Attributes:
        body_bytes: largest body of a request.
        json_bytes: largest JSON body of a request that holds no image.
        body_seconds: longest time that headers, and then the body, may take to arrive.
        image_pixels, image_side: largest image that is read.
        output_pixels: largest image that is returned, in pixels.
        prompt_letters: longest prompt; the model's own limit in tokens comes on top.
        images: largest n.
        work_seconds: longest time that one request may occupy the device, by the measured pace.
        waiting, waiting_per_client: requests that wait, in all and of one key or address.
        batch: images that are drawn at a time.
        wait_seconds, draw_seconds: longest time in the queue, and of the drawing.
        results, results_bytes: results that are kept, in number and in bytes.
        connections: connections at a time.
        rate: requests a minute of one key or address; 0 is no limit.
        preview_seconds: shortest time between two previews of a job.
        drain_seconds: longest time that a server that is told to stop goes on with accepted work.
    """

    body_bytes: int = 32_000_000
    json_bytes: int = 1_000_000
    body_seconds: float = 30
    image_pixels: int = 16_000_000
    image_side: int = 8192
    output_pixels: int = 4_194_304
    prompt_letters: int = 4000
    images: int = 10
    work_seconds: float = 60
    waiting: int = 64
    waiting_per_client: int = 8
    batch: int = 8
    wait_seconds: float = 300
    draw_seconds: float = 300
    results: int = 200
    results_bytes: int = 1_000_000_000
    connections: int = 1000
    rate: float = 0
    preview_seconds: float = 0.25
    drain_seconds: float = 60
