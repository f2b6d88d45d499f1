"""Rotary positions (arXiv 2104.09864) with YaRN frequencies (arXiv 2309.00071), along a line or a map."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from smalti.model.config import RopeConfig


class RotaryTables(NamedTuple):
    """Tables that rotate queries and keys by their positions.

    Attributes:
        cos: (L, d) or (B, 1, L, d), d the head's dimension; both halves hold the same angles.
        sin: the same shape, the first half negated, so that a rotation is x·cos + swapped halves·sin.
        query_scale: (L, 1), factor on rotated queries, or None where it is 1 everywhere.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    query_scale: torch.Tensor | None = None

    def part(self, start: int, length: int) -> RotaryTables:
        """Return the tables of `length` positions from `start` on."""
        scale = None if self.query_scale is None else self.query_scale.narrow(-2, start, length)
        return RotaryTables(self.cos.narrow(-2, start, length), self.sin.narrow(-2, start, length), scale)

    def at(self, positions: torch.Tensor) -> RotaryTables:
        """Return the tables of some positions of each prompt, (p, N) int64, from tables that all prompts share."""

        def pick(table: torch.Tensor) -> torch.Tensor:
            # A table is (L, d), or (1, 1, L, d) where one start is all prompts'.
            return table.reshape(table.shape[-2:])[positions][:, None]

        scale = None if self.query_scale is None else pick(self.query_scale)
        return RotaryTables(pick(self.cos), pick(self.sin), scale)


def inverse_frequencies(rope: RopeConfig, dim: int) -> tuple[torch.Tensor, float]:
    """Return radians a position for the pairs of dimensions, (dim/2,) float32, and YaRN's attention factor.

    YaRN (section 3.2) keeps frequencies that turn more than beta_fast times over the original length. It divides those
    that turn less than beta_slow times by `factor`, and blends linearly between.
    """
    powers = rope.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    extrapolated = 1.0 / powers
    if rope.rope_type == "default":
        return extrapolated, 1.0
    interpolated = 1.0 / (rope.factor * powers)

    def pair_that_turns(rotations: float) -> float:
        length = rope.original_max_position_embeddings / (rotations * 2 * math.pi)
        return dim * math.log(length) / (2 * math.log(rope.rope_theta))

    low = max(math.floor(pair_that_turns(rope.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(rope.beta_slow)), dim - 1)
    width = high - low if high != low else 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / width).clamp(0, 1)
    kept = 1.0 - ramp

    def attention_scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0

    factor = attention_scale(rope.mscale) / attention_scale(rope.mscale_all_dim)
    return interpolated * (1.0 - kept) + extrapolated * kept, factor


def _tables(angles: torch.Tensor, factor: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin of angles (…, d/2) with d columns, the sine's first half negated."""
    cos, sin = angles.cos() * factor, angles.sin() * factor
    return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)


def raster_tables(
    rope: RopeConfig, head_dim: int, length: int, device: torch.device, dtype: torch.dtype
) -> RotaryTables:
    """Build tables for positions 0 … length − 1, the same for every prompt of a batch."""
    frequencies, factor = inverse_frequencies(rope, head_dim)
    positions = torch.arange(length, dtype=torch.float32, device=device)
    cos, sin = _tables(positions[:, None] * frequencies.to(device), factor, dtype)
    scale = None
    original = rope.original_max_position_embeddings
    if rope.rope_type == "yarn" and rope.llama_4_scaling_beta and length > original:
        scale = 1.0 + rope.llama_4_scaling_beta * torch.log1p(torch.floor(positions / original))
        scale = scale[:, None].to(dtype)
    return RotaryTables(cos, sin, scale)


def axial_positions(length: int, slot_start: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return row and column of every position of a sequence that holds a rows × columns map.

    As in the multimodal rotary embedding of Qwen2-VL (arXiv 2409.12191, section 2.1), text before the map at index i
    has the position (i, i). The map's cell (r, c) has (s + r, s + c), with s the index of its first slot. Text after
    the map continues from s + max(rows, columns) in both coordinates.

    Args:
        length: number of positions of the sequence.
        slot_start: (B,) int64, index of the map's first slot.
        rows: rows of the map.
        columns: columns of the map.

    Returns:
        (B, length, 2) int64.
    """
    index = torch.arange(length, device=slot_start.device)
    start = slot_start[:, None]
    cell = index - start
    inside = (cell >= 0) & (cell < rows * columns)
    text = torch.where(cell < 0, index, start + max(rows, columns) + cell - rows * columns)
    row = torch.where(inside, start + torch.div(cell, columns, rounding_mode="floor"), text)
    column = torch.where(inside, start + cell % columns, text)
    return torch.stack([row, column], dim=-1)


def axial_tables(
    rope: RopeConfig, head_dim: int, positions: torch.Tensor, dtype: torch.dtype, sides: tuple[int, int]
) -> RotaryTables:
    """Build tables for positions (B, L, 2): half of the pairs turn by row, half by column.

    Each half has all the frequencies of a head of half the dimension, those of `rope.for_side`.

    Args:
        sides: rows and columns of the map.
    """
    halves, factor = [], 1.0
    for axis, side in enumerate(sides):
        frequencies, factor = inverse_frequencies(rope.for_side(side), head_dim // 2)
        halves.append(positions[..., axis, None].float() * frequencies.to(positions.device))
    cos, sin = _tables(torch.cat(halves, dim=-1), factor, dtype)
    return RotaryTables(cos[:, None], sin[:, None])


def rotate(x: torch.Tensor, tables: RotaryTables) -> torch.Tensor:
    """Turn the half-split pairs of x, (B, heads, L, d), by their positions."""
    first, second = x.chunk(2, dim=-1)
    return x * tables.cos + torch.cat([second, first], dim=-1) * tables.sin
