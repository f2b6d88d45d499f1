"""Numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What a server counts, in a registry of its own.

    Attributes:
        requests, seconds: HTTP answers by route and status, and their duration.
        accepted, ended: jobs by operation, and by the state that they ended in.
        images, batches, drawing, previews: images drawn, sizes of batches, seconds of drawing, previews sent.

    Example:
        >>> metrics = Metrics()
        >>> metrics.drew("scenes", 4, 0.5, 0)
        >>> b'smalti_images_total{model="scenes"} 4.0' in metrics.text()
        True
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "smalti_http_requests", "HTTP answers.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "smalti_http_seconds",
            "Duration of HTTP answers.",
            ["route"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.accepted = Counter("smalti_jobs_accepted", "Jobs accepted.", ["operation"], registry=registry)
        self.ended = Counter("smalti_jobs_ended", "Jobs ended, by state.", ["state"], registry=registry)
        self.images = Counter("smalti_images", "Images drawn.", ["model"], registry=registry)
        self.batches = Histogram(
            "smalti_batch_images", "Images of a batch.", registry=registry, buckets=(1, 2, 4, 8, 16, 32)
        )
        self.drawing = Counter(
            "smalti_drawing_seconds", "Seconds that workers drew.", ["model"], registry=registry
        )
        self.previews = Counter("smalti_previews", "Previews made.", registry=registry)
        self._waiting = Gauge("smalti_queue_jobs", "Jobs that wait.", registry=registry)
        self._running = Gauge("smalti_running_jobs", "Jobs that are drawn.", registry=registry)

    def follow_queue(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Take the numbers of waiting and running jobs from functions."""
        self._waiting.set_function(waiting)
        self._running.set_function(running)

    def drew(self, model: str, images: int, seconds: float, previews: int) -> None:
        """Count a batch."""
        self.images.labels(model).inc(images)
        self.batches.observe(images)
        self.drawing.labels(model).inc(seconds)
        self.previews.inc(previews)

    def text(self) -> bytes:
        """Return the numbers in Prometheus' text format."""
        return generate_latest(self._registry)
