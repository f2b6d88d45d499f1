"""Whether a denoiser's training fits the memory of its device, and what would, before anything is read or encoded."""

from __future__ import annotations

import sys
from collections.abc import Iterator

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
from smalti.training.config import DenoiserRunConfig
from smalti.training.distribution import rank, size
from smalti.training.precision import uses_bf16

_TEXT = 64  # text ids of a prompt, at most; prompts are not read yet


def check_memory(
    config: DenoiserRunConfig, model: nn.Module, shape: DenoiserConfig, grid: tuple[int, int]
) -> TrainingNeed:
    """Print what a training needs on this process's device by part, and compare it with what there is.

    Args:
        config: configuration of the training.
        model: the model, which may be on the meta device.
        shape: its configuration.
        grid: height and width of the grid in tokens.

    Raises:
        SmaltiError: it does not fit; the message names settings with which it does, if there are any.
    """
    device = find_device(config.loop.device)
    tensors = [*model.parameters(), *model.buffers()]
    need = training_need(tensors, shape, mode_of(config, shape, grid, device))
    limit = _limit(config, device)
    if rank() == 0:
        parts = ", ".join(f"{name} {gigabytes(count)}" for name, count in need.parts.items())
        there = f" of {gigabytes(limit)}" if limit is not None else ""
        tqdm.write(f"memory on {device}, computed: {gigabytes(need.total)}{there}: {parts}", file=sys.stderr)
    if limit is None or need.total <= limit:
        return need
    for changes, other in _others(config):
        found = training_need(tensors, shape, mode_of(other, shape, grid, device))
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
                    other = config.model_copy(update={"loop": loop, "optimizer": optimizer})
                    changes = list(_changes(config, other))
                    if changes:
                        yield changes, other


def _changes(before: DenoiserRunConfig, after: DenoiserRunConfig) -> Iterator[str]:
    """Yield what to type for the second configuration."""
    for section in ("loop", "optimizer"):
        old, new = getattr(before, section), getattr(after, section)
        for name in type(old).model_fields:
            if getattr(old, name) != getattr(new, name):
                yield f"{section}.{name}={getattr(new, name)}"
