"""How a model is loaded: the arguments of loading are checked, and a mode is chosen that fits the memory."""

from __future__ import annotations

from pathlib import Path

import torch

from smalti.common.checks import check_choice, check_flag
from smalti.common.devices import free_bytes
from smalti.common.host import host_bytes
from smalti.errors import SmaltiError
from smalti.runtime.memory import Mode, ModelSize, gigabytes, mapped_by_default, need
from smalti.runtime.modes import choose, what_fits
from smalti.runtime.quantization import QUANTIZATIONS
from smalti.storage.folder import OFFLOADS, load_config


def check_choices(**given: str | None) -> None:
    """Raise SmaltiError unless each argument that is given is one of its choices."""
    allowed = {"quantize": QUANTIZATIONS, "offload": OFFLOADS, "image_dtype": ("float32", "bfloat16")}
    for name, value in given.items():
        if value is not None:
            check_choice(name, value, allowed[name])


def check_flags(**given: object) -> None:
    """Raise SmaltiError unless each argument is true or false."""
    for name, value in given.items():
        check_flag(name, value)


def choose_mode(
    folder: Path,
    place: torch.device,
    precision: torch.dtype,
    quantize: str | None,
    offload: str | None,
    budget: int | None,
    compiled: bool,
    float32_first: bool,
    reserved: int,
) -> Mode:
    """Return how to load, checked against the memory there is less `reserved` bytes for adapters."""
    budget = None if budget is None else max(0, budget - reserved)
    dtype = str(precision).removeprefix("torch.")
    streams = place.type == "cuda"
    if not streams:
        offload = None
    if budget is None and place.type != "cuda":
        # Nothing to choose and nothing to check against: a CPU's memory is not for one process alone.
        config = load_config(folder)
        mapped = mapped_by_default(config.vocab_size * config.hidden_size, dtype)
        return Mode(dtype, quantize, offload, mapped, compiled=compiled)
    from smalti.storage.inspection import inspect

    report = inspect(folder)
    if report.get("image_tokenizer") is None:
        raise SmaltiError(f"{folder} is not a model that draws: it has no denoiser or no image tokenizer")
    size = ModelSize.of(report)
    free = free_bytes(place)
    free = None if free is None else max(0, free - reserved)
    host = host_bytes()
    if budget is not None:
        return choose(
            size,
            budget if free is None else min(budget, free),
            dtype=dtype,
            streams=streams,
            host=host,
            quantize=quantize,
            offload=offload,
            compiled=compiled,
            float32_first=float32_first,
        )
    mode = Mode(dtype, quantize, offload, mapped_by_default(size.text_embedding, dtype), compiled=compiled)
    needed = need(size, mode)
    if host is not None and host < needed.host:
        raise SmaltiError(
            f"offload='layers' keeps {gigabytes(needed.host)} in the host's memory, which has {gigabytes(host)} left"
        )
    if free is not None and free < needed.total:
        raise SmaltiError(
            f"device {place} has {gigabytes(free)} of memory free, and the model needs {gigabytes(needed.total)} "
            f"(computed) in {mode}: "
            + what_fits(size, free, dtype=dtype, streams=streams, host=host, compiled=compiled)
        )
    return mode
