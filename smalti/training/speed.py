"""How fast a training is: images a second, the share of the machine's product rate, and the peak of memory."""

from __future__ import annotations

import functools
import sys
import time

import torch

from smalti.training.config import LoopConfig
from smalti.training.distribution import size
from smalti.training.precision import uses_bf16

_SIDES = {"cpu": 768}  # of the matrices whose product is timed
_SIDE_ELSEWHERE = 8192
_ROUNDS = 4


class Speed:
    """Measures the steps between two log entries.

    Args:
        products: floating-point operations of an image's matrix products, with gradients; 0 if unknown.
        loop: the section of the configuration.
        device: this process's device.
    """

    def __init__(self, products: float, loop: LoopConfig, device: torch.device) -> None:
        self._products, self._loop, self._device = products, loop, device
        self._started = time.monotonic()

    def start(self) -> None:
        """Begin a new measurement; what happened before, such as a preview, does not count."""
        self._started = time.monotonic()

    def entry(self, steps: int) -> dict[str, float]:
        """Return the log's numbers for the steps since `start`."""
        rate = steps * self._loop.images / (time.monotonic() - self._started)
        found = {"images_per_second": round(rate, 2)}
        if self._products:
            dtype = torch.bfloat16 if uses_bf16(self._loop, self._device) else torch.float32
            share = rate / size() * self._products / product_rate(self._device, dtype)
            found["product_share"] = round(share, 4)
        peak = peak_memory(self._device)
        return {**found, "peak_memory_gb": round(peak / 1e9, 3)} if peak else found


@functools.cache
def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a large matrix product here, by a short measurement."""
    side = _SIDES.get(device.type, _SIDE_ELSEWHERE)
    a = torch.ones(side, side, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(_ROUNDS):
        _synchronize(device)
        started = time.perf_counter()
        a @ a
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def peak_memory(device: torch.device) -> int | None:
    """Return the largest number of bytes that this process has used: on its GPU, or of the host's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
