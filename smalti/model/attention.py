"""Scaled dot-product attention: PyTorch's kernel, or other products for bfloat16 on CPUs where it is slow."""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F

_ROWS = 512  # queries at a time; their float32 logits stay in a CPU's cache
_FEW = 256  # queries below which PyTorch's kernel is as fast
_SHORT = 512  # keys up to which training keeps all logits
# Whether this CPU multiplies in bfloat16. A constant, because compiled layers would stop at a function.
_HAS_PRODUCTS = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor | None = None,
    grouped: bool | None = None,
) -> torch.Tensor:
    """Attend: softmax(q·kᵀ / √d)·v (arXiv 1706.03762, section 3.2.1).

    Each key and value serves a group of neighbouring query heads.

    Args:
        query: (B, heads, L, d).
        key: (B, key heads, K, d); the number of key heads divides that of the heads.
        value: the same shape as `key`.
        visible: (B, 1, 1, K) bool, False on positions to ignore, or None.
        grouped: whether there are fewer key heads than heads; None finds out. Compiled, sizes may be symbols, which
            PyTorch's kernel does not take for an answer.

    Returns:
        (B, heads, L, d).
    """
    if grouped is None:
        grouped = query.shape[1] != key.shape[1]
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        if torch.is_grad_enabled():
            if key.shape[2] <= _SHORT and not grouped and _HAS_PRODUCTS:
                return _attend_by_products(query, key, value, visible)
        elif query.shape[2] >= _FEW and visible is None and not torch.compiler.is_compiling():
            if _own_is_faster():
                return _attend_by_head(query, key, value)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, enable_gqa=grouped)


@functools.cache
def _own_is_faster() -> bool:
    """Return whether PyTorch's kernel multiplies slower on this CPU than oneDNN does.

    The kernel uses MKL unless the CPU has tiles (AMX). On an AMD EPYC with bfloat16 instructions it takes twice the
    time of `_attend_by_head`.
    """
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and _HAS_PRODUCTS
        and not getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)()
    )


def _attend_by_head(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attend without a mask. Logits and softmax are in float32, as in PyTorch's kernel."""
    B, heads, length, head_dim = query.shape
    group = heads // key.shape[1]
    mixed = query.new_empty(B, length, heads, head_dim)
    for image in range(B):
        for head in range(heads):
            keys = key[image, head // group].float() * head_dim**-0.5
            values = value[image, head // group]
            for start in range(0, length, _ROWS):
                rows = slice(start, start + _ROWS)
                mixed[image, rows, head] = _weights(query[image, head, rows], keys) @ values
    return mixed.transpose(1, 2)


def _attend_by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None
) -> torch.Tensor:
    """Attend by two products, for which autograd keeps the logits; a fifth of the time of PyTorch's kernel."""
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if visible is not None:
        # Added, not filled in: a sum needs no pass over the logits for its gradient.
        logits = logits + torch.zeros_like(visible, dtype=logits.dtype).masked_fill(~visible, float("-inf"))
    return logits.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


def _weights(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return softmax(q·kᵀ), (n, K) bfloat16, of queries (n, d) bfloat16 and keys (K, d) float32."""
    # oneDNN's product x·wᵀ in float32, which PyTorch has no other name for: F.linear is MKL's.
    logits = torch.ops.mkldnn._linear_pointwise(queries.float(), keys, None, "none", [], "")
    return torch.softmax(logits, dim=-1, out=logits).to(queries.dtype)
