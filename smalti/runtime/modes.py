"""The choice of the loading mode that fits a device's memory, by the arithmetic of smalti/runtime/memory.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from smalti.errors import SmaltiError
from smalti.runtime.memory import BYTES, Mode, ModelSize, gigabytes, mapped_by_default, need, pixel_room


def modes(
    size: ModelSize,
    *,
    dtype: str,
    streams: bool,
    quantize: str | None = None,
    offload: str | None = None,
    compiled: bool = False,
) -> Iterator[Mode]:
    """Yield loading modes, the one that costs the least time and precision first.

    Args:
        size: sizes of the model. A folder's own quantization is that of every mode.
        dtype: dtype of the denoiser.
        streams: whether the device is not the CPU, so that parts can stay on the CPU.
        quantize: quantization that every mode must have, or None for any.
        offload: offloading that every mode must have, or None for any.
        compiled: whether the modes compile the layers.
    """
    ways = [
        (None, None),
        ("int8", None),
        (None, "layers"),
        ("int8", "layers"),
        ("int4", None),
        ("int4", "layers"),
    ]
    quantize = size.stored or quantize
    if quantize not in (None, "int8", "int4"):
        ways = [(quantize, None), (quantize, "layers")]
    large = mapped_by_default(size.text_embedding, dtype)
    for quantized, offloaded in ways:
        if (
            quantize not in (None, quantized)
            or offload not in (None, offloaded)
            or (offloaded and not streams)
        ):
            continue
        mode = Mode(dtype, quantized, offloaded, large, compiled=compiled)
        yield mode
        mode = dataclasses.replace(
            mode, mapped=("embed_tokens", "gen_embedding"), image_tokenizer_dtype="bfloat16"
        )
        yield mode
        yield dataclasses.replace(mode, guidance_batched=False)
        if streams:
            mode = dataclasses.replace(mode, image_tokenizer_dtype="float32", image_tokenizer_on_cpu=True)
            yield mode
            yield dataclasses.replace(mode, guidance_batched=False)


def choose(
    size: ModelSize,
    budget: int,
    *,
    dtype: str,
    streams: bool,
    host: int | None = None,
    quantize: str | None = None,
    offload: str | None = None,
    compiled: bool = False,
    float32_first: bool = False,
) -> Mode:
    """Return the first of `modes` that fits, with the bytes that are left for decoding.

    Args:
        size: sizes of the model.
        budget: bytes of the device.
        dtype: as in `modes`.
        streams: as in `modes`.
        quantize: as in `modes`.
        offload: as in `modes`.
        host: bytes of the host's memory that streamed layers may take, or None for any number.
        compiled: as in `modes`.
        float32_first: whether float32 throughout is taken where it fits, as for a CPU without bfloat16 instructions.

    Raises:
        SmaltiError: no mode fits; the message says what the smallest needs.
    """
    candidates = list(
        modes(size, dtype=dtype, streams=streams, quantize=quantize, offload=offload, compiled=compiled)
    )
    if float32_first:
        options: dict[str, Any] = {"quantize": quantize, "offload": offload, "compiled": compiled}
        precise = [
            mode
            for mode in modes(size, dtype="float32", streams=streams, **options)
            if mode.quantize == (size.stored or quantize) and mode.image_tokenizer_dtype == "float32"
        ]
        candidates = precise + candidates
    needs = [(mode, need(size, mode)) for mode in candidates]
    for mode, needed in needs:
        if needed.total <= budget and (host is None or needed.host <= host):
            return dataclasses.replace(mode, pixel_bytes=pixel_room(size, mode, budget))
    possible = [pair for pair in needs if host is None or pair[1].host <= host] or needs
    mode, least = min(possible, key=lambda pair: pair[1].total)
    raise SmaltiError(
        f"memory must be at least {gigabytes(least.total)} for this model, not {gigabytes(budget)}: that is what "
        f"the smallest loading mode needs ({mode})"
    )


def what_fits(
    size: ModelSize,
    budget: int,
    *,
    dtype: str,
    streams: bool,
    host: int | None = None,
    compiled: bool = False,
) -> str:
    """Return advice for a device that is too small: the options of the first mode that fits, or that none does."""
    try:
        mode = choose(size, budget, dtype=dtype, streams=streams, host=host, compiled=compiled)
    except SmaltiError as error:
        return str(error)
    return (
        f"memory='{int(budget / 1e8) / 10}GB' would load it with {mode}, {gigabytes(need(size, mode).total)}"
    )


def table(size: ModelSize) -> list[dict[str, Any]]:
    """Return the computed bytes that each precision needs on a device, one row each, for `smalti info`."""
    rows = []
    for precision in (size.stored,) if size.stored else ("float32", "bfloat16", "int8", "int4"):
        dtype = precision if precision in BYTES else "bfloat16"
        quantize = None if precision in BYTES else precision
        mode = Mode(dtype, quantize, None, mapped_by_default(size.text_embedding, dtype))
        needed = need(size, mode)
        rows.append(
            {
                "precision": precision,
                "weights": needed.weights,
                "working": needed.working,
                "total": needed.total,
                "computed": True,
            }
        )
    return rows


def cards(size: ModelSize, sizes: tuple[int, ...] = (24, 16, 12, 8)) -> list[dict[str, Any]]:
    """Return the mode that `memory=` chooses for each GPU size in GB, from the first that needs savings on."""
    rows: list[dict[str, Any]] = []
    for count in sizes:
        try:
            mode = choose(size, count * 10**9, dtype="bfloat16", streams=True)
        except SmaltiError:
            continue
        needed = need(size, mode)
        if mode.quantize or mode.offload or "gen_embedding" in mode.mapped or rows:
            rows.append(
                {
                    "memory": f"{count}GB",
                    "mode": str(mode),
                    "total": needed.total,
                    "host": needed.host,
                    "computed": True,
                }
            )
    return rows
