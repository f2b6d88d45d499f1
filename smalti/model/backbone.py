"""The backbone: pre-norm transformer layers of the Llama kind, without a causal mask (docs/format.md, section 3)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from smalti.model.attention import attend
from smalti.model.cells import KeptLayer
from smalti.model.config import DenoiserConfig
from smalti.model.reuse import LayerMemory
from smalti.model.rotary import RotaryTables, rotate


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, in float32, with a learned scale."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (…, dim); shape and dtype stay."""
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Grouped-query attention. Every position sees every other that is not padding."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query, key_value = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(config.hidden_size, query * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_value * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_value * config.head_dim, bias=False)
        self.o_proj = nn.Linear(query * config.head_dim, config.hidden_size, bias=False)
        self.grouped = config.num_attention_heads != config.num_key_value_heads

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        *,
        tables: RotaryTables | None = None,
        visible: torch.Tensor | None = None,
        memory: LayerMemory | KeptLayer | None = None,
    ) -> torch.Tensor:
        """Attend from x to itself or to `context`.

        Args:
            x: (B, L, D).
            context: (B, K, D), or None for x itself.
            tables: rotary positions of x, or None for no rotation.
            visible: (B, 1, 1, K) bool, False on padding, or None if nothing is padded.
            memory: keys and values of an earlier pass to join to those of x; an empty memory is filled with those of x.

        Returns:
            (B, L, D).
        """
        source = x if context is None else context
        query = self._heads(self.q_proj(x))
        key = self._heads(self.k_proj(source))
        value = self._heads(self.v_proj(source))
        if tables is not None:
            query, key = rotate(query, tables), rotate(key, tables)
            if tables.query_scale is not None:
                query = query * tables.query_scale
        if memory is not None:
            key, value = memory.join(key, value)
        mixed = attend(query, key, value, visible, grouped=self.grouped)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform each vector: (…, D) → (…, D)."""
        gate = self.gate_proj(x)
        if torch.is_grad_enabled():
            return self.down_proj(F.silu(gate) * self.up_proj(x))
        # In place: these are the largest vectors of a layer.
        return self.down_proj(F.silu(gate, inplace=True).mul_(self.up_proj(x)))


class Layer(nn.Module):
    """Self-attention, cross-attention to the encoded prompt if wanted, feed-forward; each a residual.

    Attributes:
        recomputed: whether the layer keeps its input alone for the backward pass, and computes the rest again there.
    """

    recomputed = False

    def __init__(self, config: DenoiserConfig, *, cross_attention: bool = False) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        if cross_attention:
            self.cross_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.cross_attn = Attention(config)
        self.cross_attention = cross_attention
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(
        self,
        x: torch.Tensor,
        tables: RotaryTables,
        *,
        visible: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_visible: torch.Tensor | None = None,
        memory: LayerMemory | KeptLayer | None = None,
    ) -> torch.Tensor:
        """Run the layer: (B, L, D) → (B, L, D); `text` (B, K, D) is the encoded prompt, the rest as in `Attention`."""
        if self.recomputed and torch.is_grad_enabled() and memory is None:
            found = checkpoint(self._run, x, tables, visible, text, text_visible, None, use_reentrant=False)
            assert isinstance(found, torch.Tensor)
            return found
        return self._run(x, tables, visible, text, text_visible, memory)

    def _run(
        self,
        x: torch.Tensor,
        tables: RotaryTables,
        visible: torch.Tensor | None,
        text: torch.Tensor | None,
        text_visible: torch.Tensor | None,
        memory: LayerMemory | KeptLayer | None,
    ) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), tables=tables, visible=visible, memory=memory)
        if self.cross_attention:
            x = x + self.cross_attn(self.cross_attention_layernorm(x), text, visible=text_visible)
        return x + self.mlp(self.post_attention_layernorm(x))
