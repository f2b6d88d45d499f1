"""Run contenders in separate processes; measure time, memory, counted operations and the rate of a matrix product."""

from __future__ import annotations

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
_CUDA_ROUNDS = 10


def in_a_process(script: str, arguments: list[str]) -> dict[str, float]:
    """Run a script in a process of its own, and return the JSON object that is its last line of output."""
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join([script, *arguments])} failed (its message is above)")
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    call: Callable[[], object], device: torch.device, prepare: Callable[[], object] = lambda: None
) -> tuple[float, int]:
    """Return the seconds of a call, and the bytes of its peak memory above what was allocated before.

    On CUDA this is the median of a few calls, with `prepare` before each. Elsewhere it is one call. Its peak is the
    process's, so nothing in this process may have taken more before.
    """
    if device.type != "cuda":
        prepare()
        before = peak()
        started = time.perf_counter()
        call()
        seconds = time.perf_counter() - started
        return seconds, peak() - before
    times = []
    for _ in range(_CUDA_ROUNDS):
        prepare()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times), torch.cuda.max_memory_allocated() - before


def product_rate(device: torch.device, dtype: torch.dtype, rows: int, dim: int, codes: int) -> float:
    """Return the machine's best rate of a matrix product of this width, in operations a second."""
    rows, codes = min(rows, 4096), min(codes, 16384)
    a = torch.randn(rows, dim, device=device, dtype=dtype)
    b = torch.randn(codes, dim, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4 if device.type == "cpu" else 20):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b.T
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * rows * codes * dim / best


def operations_of(run: Callable[[], object]) -> int:
    """Count the operations of matrix products, attention and convolutions in `run`; a multiply-add is two."""
    # PyTorch counts neither attention on a CPU, nor attention on a GPU where queries share keys, nor oneDNN's product.
    missing: dict[object, Callable[..., int]] = {
        getattr(torch.ops.aten, f"_scaled_dot_product_{name}"): _attention_operations
        for name in (
            "flash_attention_for_cpu",
            "flash_attention",
            "efficient_attention",
            "cudnn_attention",
        )
    }
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        missing[torch.ops.mkldnn._linear_pointwise] = _product_operations
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        run()
    return counter.get_total_flops()


def _attention_operations(query: tuple[int, ...], key: tuple[int, ...], *_: object, **__: object) -> int:
    """Return the operations of attention's two products for query and key (B, heads, L, head_dim)."""
    B, heads, length, head_dim = query
    return 4 * B * heads * length * key[2] * head_dim


def _product_operations(x: tuple[int, ...], weight: tuple[int, ...], *_: object, **__: object) -> int:
    """Return the operations of x·wᵀ for shapes (…, in) and (out, in)."""
    return 2 * math.prod(x) * weight[0]


def device_name(device: str) -> str:
    """Return the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else device


def peak() -> int:
    """Return the process's peak memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
