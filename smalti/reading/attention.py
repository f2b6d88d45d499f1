"""Attention of an image's positions to the words of a prompt, read from the layers while the denoiser runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from smalti.common.devices import autocast_off
from smalti.errors import SmaltiError
from smalti.model.backbone import Attention
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.model.rotary import RotaryTables, rotate


def check_attention(denoiser: Denoiser, what: str = "attention maps") -> None:
    """Raise SmaltiError unless the layers of a denoiser can be watched: they must not be compiled.

    Args:
        denoiser: the denoiser.
        what: plural name of what is read from the layers, for the error.
    """
    if any(getattr(layer, "_compiled_call_impl", None) is not None for layer in running_layers(denoiser)):
        raise SmaltiError(f"{what} need a model that is not compiled: leave out compile", argument="compile")


@torch.inference_mode()
def attention_maps(
    denoiser: Denoiser, prompt: PromptBatch, tokens: torch.Tensor, masks: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Return how much each image position attends to some ids of the prompt, the mean over heads, layers and masks.

    In a sequence of text and image, softmax shares the attention between both. The shares are not normalised to the
    text: a position that looks at the image alone is not of interest.

    Args:
        denoiser: the model, whose layers are not compiled.
        prompt: one prompt, with the slots of this grid, on the denoiser's device.
        tokens: (h, w) int64, without masks.
        masks: (K, h, w) bool, True where masked; one pass each.
        columns: (n,) int64, indices into the prompt's ids.

    Returns:
        (h, w, n) float32 on the CPU.

    Raises:
        SmaltiError: the layers are compiled.
    """
    check_attention(denoiser)
    device = denoiser.device
    height, width = tokens.shape
    rows, across = denoiser.config.positions(height, width)
    image = image_rows(denoiser, prompt, rows * across)
    total, count = torch.zeros(rows * across, len(columns), device=device), 0
    for mask in masks:
        grid = tokens.to(device).masked_fill(mask.to(device), denoiser.config.mask_code)[None]
        with (
            watched(denoiser, image, columns.to(device)) as seen,
            autocast_off(device),
        ):
            denoiser(grid, prompt)
        total += torch.stack(seen).sum(0)
        count += len(seen)
    maps = (total / count).view(rows, across, -1).cpu()
    return maps.repeat_interleave(height // rows, 0).repeat_interleave(width // across, 1)


def image_rows(denoiser: Denoiser, prompt: PromptBatch, positions: int) -> slice:
    """Return the rows of the layers' sequence that hold an image of so many positions."""
    first = int(prompt.slot_start[0]) if denoiser.config.conditioning == "sequence" else 0
    return slice(first, first + positions)


def running_layers(denoiser: Denoiser) -> list[nn.Module]:
    """Return the modules that run as layers: the layers, or the places that streamed ones are copied into."""
    streamed = getattr(denoiser.layers, "on_device", None)
    return list(denoiser.layers) if streamed is None else list(streamed)


@contextmanager
def watched(denoiser: Denoiser, image: slice, columns: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Collect the attention of each layer that runs in the block: (positions, n), the mean over its heads."""
    seen: list[torch.Tensor] = []
    cross = denoiser.config.conditioning == "cross_attention"

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, Attention)
        context = args[1] if len(args) > 1 else kwargs.get("context")
        seen.append(_attention(module, args[0], context, kwargs.get("tables"), image, columns))

    handles = [
        getattr(layer, "cross_attn" if cross else "self_attn").register_forward_pre_hook(
            look, with_kwargs=True
        )
        for layer in running_layers(denoiser)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _attention(
    module: Attention,
    x: torch.Tensor,
    context: torch.Tensor | None,
    tables: RotaryTables | None,
    image: slice,
    columns: torch.Tensor,
) -> torch.Tensor:
    """Return the attention from the image's rows to some columns, the mean over heads: (positions, n)."""
    source = x if context is None else context
    query = module.q_proj(x).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
    key = module.k_proj(source).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
    if tables is not None:
        query, key = rotate(query, tables), rotate(key, tables)
        if tables.query_scale is not None:
            query = query * tables.query_scale
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    logits = query[0, :, image].float() @ key[0].float().mT * module.head_dim**-0.5
    return logits.softmax(-1)[..., columns].mean(0)
