"""Whether a denoiser's training fits the memory of its device, and what would, before anything is read or encoded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from smalti.common.devices import find_device, free_bytes
from smalti.common.host import host_bytes
from smalti.errors import SmaltiError
from smalti.model.config import DenoiserConfig
from smalti.runtime.memory import gigabytes, parse_memory
from smalti.runtime.training_memory import TrainingMode, TrainingNeed, training_need
from smalti.training.adapting import base_dtype
from smalti.training.config import DenoiserRunConfig
from smalti.training.distribution import rank, size
from smalti.training.precision import uses_bf16

ModelOf = Callable[[DenoiserRunConfig], nn.Module]

_TEXT = 64  # text ids of a prompt, at most; prompts are not read yet


def check_memory(
    config: DenoiserRunConfig, model_of: ModelOf, shape: DenoiserConfig, grid: tuple[int, int]
) -> TrainingNeed:
    """Print what a training needs on this process's device by part, and compare it with what there is.

    Args:
        config: configuration of the training.
        model_of: function that returns the model of a configuration, which may be on the meta device.
        shape: its configuration.
        grid: height and width of the grid in tokens.

    Raises:
        SmaltiError: it does not fit; the message names settings with which it does, if there are any.
    """
    device = find_device(config.loop.device)

    def need_of(one: DenoiserRunConfig) -> TrainingNeed:
        model = model_of(one)
        tensors = [*model.parameters(), *model.buffers()]
        return training_need(tensors, shape, mode_of(one, shape, grid, device))

    need = need_of(config)
    limit = _limit(config, device)
    if rank() == 0:
        parts = ", ".join(f"{name} {gigabytes(count)}" for name, count in need.parts.items())
        there = f" of {gigabytes(limit)}" if limit is not None else ""
        tqdm.write(
            f"smalti: memory on {device}, computed: {gigabytes(need.total)}{there}: {parts}", file=sys.stderr
        )
    if limit is None or need.total <= limit:
        return need
    for changes, other in _others(config):
        found = need_of(other)
        if found.total <= limit:
            hint = f"{' '.join(changes)} needs {gigabytes(found.total)}"
            break
    else:
        hint = "no setting of this model fits; train an adapter, or shard over more processes"
    raise SmaltiError(
        f"the training needs {gigabytes(need.total)} on {device}, which has {gigabytes(limit)}: {hint}"
    )


def mode_of(
    config: DenoiserRunConfig, shape: DenoiserConfig, grid: tuple[int, int], device: torch.device
) -> TrainingMode:
    """Return what a training's memory depends on."""
    loop = config.loop
    processes = size() if dist.is_initialized() else loop.processes
    shards = processes // config.distribution.replicas if config.distribution.strategy == "fsdp" else 1
    return TrainingMode(
        batch=min(loop.batch_size, -(-loop.images // processes)),
        grid=grid,
        text=min(shape.max_prompt_tokens, _TEXT),
        weights=getattr(torch, loop.weights),
        bf16=uses_bf16(loop, device) or loop.weights == "bfloat16",
        recompute=loop.recompute,
        optimizer=config.optimizer.kind,
        averaged=config.optimizer.ema_decay > 0,
        shards=max(1, shards),
        device=device.type,
        base=base_dtype(config) if config.adapter else None,
        quantized=config.adapter is not None and config.adapter.quantize is not None,
        keeps=config.adapter is not None and bool(config.adapter.new_words),
    )


def _limit(config: DenoiserRunConfig, device: torch.device) -> int | None:
    """Return the bytes that there are for this process, or None if unknown."""
    if config.loop.memory is not None:
        return parse_memory(config.loop.memory)
    if device.type == "cuda":
        return free_bytes(device)
    there = host_bytes() if device.type == "cpu" else None
    return None if there is None else there // size()


def _others(config: DenoiserRunConfig) -> Iterator[tuple[list[str], DenoiserRunConfig]]:
    """Yield settings that need less memory, the ones that change least first."""
    bases = [config]
    if config.adapter and not config.adapter.quantize and config.distribution.strategy == "ddp":
        for quantize in ("int8", "int4"):
            adapter = config.adapter.model_copy(update={"quantize": quantize})
            bases.append(config.model_copy(update={"adapter": adapter}))
    for base in bases:
        for other in _smaller(base):
            changes = list(_changes(config, other))
            if changes:
                yield changes, other


def _smaller(config: DenoiserRunConfig) -> Iterator[DenoiserRunConfig]:
    """Yield a configuration itself, and those whose loop and optimizer need less memory."""
    images = config.loop.images
    batches = [size for size in range(config.loop.batch_size, 0, -1) if images % size == 0]
    for batch in batches:
        for recompute in (config.loop.recompute, 1):
            for kind in (config.optimizer.kind, "adamw8bit"):
                for weights, decay in (
                    (config.loop.weights, config.optimizer.ema_decay),
                    ("bfloat16", config.optimizer.ema_decay),
                    ("bfloat16", 0.0),
                ):
                    loop = config.loop.model_copy(
                        update={
                            "batch_size": batch,
                            "accumulate": images // batch,
                            "recompute": recompute,
                            "weights": weights,
                        }
                    )
                    optimizer = config.optimizer.model_copy(update={"kind": kind, "ema_decay": decay})
                    yield config.model_copy(update={"loop": loop, "optimizer": optimizer})


def _changes(before: DenoiserRunConfig, after: DenoiserRunConfig) -> Iterator[str]:
    """Yield what to type for the second configuration."""
    for section in ("loop", "optimizer", "adapter"):
        old, new = getattr(before, section), getattr(after, section)
        if old is None:
            continue
        for name in type(old).model_fields:
            if getattr(old, name) != getattr(new, name):
                yield f"{section}.{name}={getattr(new, name)}"
