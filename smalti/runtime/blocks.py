"""Linear layers whose weights stay in the blocks of a GGUF file, and are turned into floats for each product.

A row of a matrix is a sequence of blocks. A block holds 32 or 256 numbers in few bits with their scales. The layouts
are those of ggml, the library that defines GGUF:

| type | numbers | bytes | a number is |
| --- | --- | --- | --- |
| Q8_0 | 32 | 34 | d · q, q of 8 bits |
| Q4_0 | 32 | 18 | d · (q − 8), q of 4 bits |
| Q4_K | 256 | 144 | d · s · q − e · m, with s and m of 6 bits for 32 numbers, q of 4 bits |
| Q5_K | 256 | 176 | the same with q of 5 bits |
| Q6_K | 256 | 210 | d · s · (q − 32), with s of 8 bits for 16 numbers, q of 6 bits |

d and e are 16-bit floats, one of each a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

_Unpack = Callable[[torch.Tensor, torch.dtype], torch.Tensor]


class BlockType(NamedTuple):
    """A layout of blocks.

    Attributes:
        numbers: numbers in a block.
        bytes: bytes of a block.
        unpack: function from blocks (…, bytes) uint8 and a dtype to numbers (…, numbers) in the dtype.
    """

    numbers: int
    bytes: int
    unpack: _Unpack


def _q8_0(blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return blocks[..., 2:].view(torch.int8).to(dtype).mul_(_half(blocks, 0, dtype))


def _q4_0(blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    stored = blocks[..., 2:]
    numbers = torch.cat([stored & 15, stored >> 4], dim=-1).to(dtype)
    return numbers.sub_(8).mul_(_half(blocks, 0, dtype))


def _q4_k(blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return _scaled(_nibbles(blocks[..., 16:]).to(dtype), blocks)


def _q5_k(blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # Bit j of the 32 bytes is the fifth bit of the j-th 32 numbers.
    high = blocks[..., None, 16:48] >> _counting(blocks, 8)[:, None] & 1
    return _scaled((_nibbles(blocks[..., 48:]) | high << 4).to(dtype), blocks)


def _q6_k(blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # Each half of the block: 64 bytes of low halves, first of 64 numbers, then of 64 more; 32 bytes of pairs of bits.
    low = blocks[..., :128].unflatten(-1, (2, 1, 64))
    low = torch.cat([low & 15, low >> 4], dim=-2).reshape(*blocks.shape[:-1], 2, 4, 32)
    high = blocks[..., 128:192].unflatten(-1, (2, 1, 32)) >> 2 * _counting(blocks, 4)[:, None] & 3
    numbers = (low | high << 4).to(dtype).sub_(32).reshape(*blocks.shape[:-1], 16, 16)
    scales = blocks[..., 192:208].view(torch.int8).float() * _half(blocks, 208, torch.float32)
    return numbers.mul_(scales.to(dtype)[..., None]).flatten(-2)


def _half(blocks: torch.Tensor, first: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the 16-bit float at a byte of every block, (…, 1)."""
    return blocks[..., first : first + 2].contiguous().view(torch.float16).to(dtype)


def _nibbles(stored: torch.Tensor) -> torch.Tensor:
    """Return the halves of (…, 128) bytes as (…, 8, 32): the low ones of 32 bytes, then their high ones."""
    runs = stored.unflatten(-1, (4, 1, 32))
    return torch.cat([runs & 15, runs >> 4], dim=-2).flatten(-3, -2)


def _scaled(numbers: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return d · s · q − e · m of (…, 8, 32) numbers q, flat, in their dtype."""
    packed = blocks[..., 4:16]
    first, second, third = packed.split(4, dim=-1)
    scales = torch.cat([first & 63, (third & 15) | (first >> 6 << 4)], dim=-1).float()
    minima = torch.cat([second & 63, (third >> 4) | (second >> 6 << 4)], dim=-1).float()
    scales *= _half(blocks, 0, torch.float32)
    minima *= _half(blocks, 2, torch.float32)
    numbers.mul_(scales.to(numbers.dtype)[..., None]).sub_(minima.to(numbers.dtype)[..., None])
    return numbers.flatten(-2)


def _counting(blocks: torch.Tensor, count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8, device=blocks.device)


BLOCKS = {
    "Q8_0": BlockType(32, 34, _q8_0),
    "Q4_0": BlockType(32, 18, _q4_0),
    "Q4_K": BlockType(256, 144, _q4_k),
    "Q5_K": BlockType(256, 176, _q5_k),
    "Q6_K": BlockType(256, 210, _q6_k),
}
"""Every layout of blocks by ggml's name."""


def cast_input(x: torch.Tensor) -> torch.Tensor:
    """Return what a layer multiplies, x, in autocast's dtype where it is on; float64 stays."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


class BlockLinear(nn.Module):
    """A linear layer whose weights are stored in blocks, without bias.

    Its tensor is a frozen parameter, as in `smalti.runtime.quantization.RowLinear`.

    Attributes:
        in_features: number of columns of W.
        out_features: number of rows of W.
        kind: type of the blocks, one of `BLOCKS`.

    Example:
        >>> layer = BlockLinear(torch.zeros(3, 2 * 34, dtype=torch.uint8), "Q8_0")
        >>> layer(torch.ones(5, 64)).shape
        torch.Size([5, 3])
    """

    def __init__(self, stored: torch.Tensor, kind: str) -> None:
        """Take `stored`, (out, bytes of a row) uint8, in blocks of `kind`."""
        super().__init__()
        self.kind = kind
        self.out_features = len(stored)
        self.in_features = stored.shape[1] // BLOCKS[kind].bytes * BLOCKS[kind].numbers
        self.stored = nn.Parameter(stored, requires_grad=False)

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """Return W, (out, in), in `dtype`."""
        return _matrix(self.stored, self.kind, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply: (…, in) → (…, out) in the dtype of x, or in autocast's where it is on."""
        x = cast_input(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return F.linear(x, self.dequantize(x.dtype))
        product: torch.Tensor = _BlockProduct.apply(x, self.stored, self.kind)
        return product

    def pin(self) -> BlockLinear:
        """Return the layer in pinned host memory."""
        return BlockLinear(self.stored.data.cpu().pin_memory(), self.kind)

    def extra_repr(self) -> str:
        """Return the sizes and the type, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}"


class _BlockProduct(torch.autograd.Function):
    """The product of a `BlockLinear`, which keeps for backward what is stored."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, stored: torch.Tensor, kind: str) -> torch.Tensor:
        ctx.save_for_backward(stored)
        ctx.kind = kind
        return F.linear(x, _matrix(stored, kind, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (stored,) = ctx.saved_tensors
        return gradient @ _matrix(stored, ctx.kind, gradient.dtype), None, None


def _matrix(stored: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
    block = BLOCKS[kind]
    return block.unpack(stored.unflatten(1, (-1, block.bytes)), dtype).flatten(1)
