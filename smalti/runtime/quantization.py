"""Linear layers whose weights are stored in 8 or 4 bits and multiplied in the activations' dtype.

For integers, torchao chooses the scales and rounds; fp8 is a cast. The 4-bit layouts of torchao are made for particular
GPUs and for a few rows at a time, so Smalti has its own storage and product. The same plain tensors serve a CPU, a GPU
and streaming between them. A matrix is unpacked once for the thousands of rows of a pass.
"""

from __future__ import annotations

import logging
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from smalti.common.checks import check_choice
from smalti.errors import SmaltiError
from smalti.runtime.memory import INT4_GROUP

QUANTIZATIONS = ("int8", "int4", "fp8")
_LARGEST_FP8 = torch.finfo(torch.float8_e4m3fn).max


class RowLinear(nn.Module):
    """A linear layer with weights W[i, j] ≈ scale[i] · stored[i, j] in int8 or float8_e4m3fn, without bias."""

    stored: torch.Tensor
    scale: torch.Tensor

    def __init__(self, stored: torch.Tensor, scale: torch.Tensor) -> None:
        """Take `stored`, (out, in) int8 or float8_e4m3fn, and `scale`, (out,) float."""
        super().__init__()
        self.register_buffer("stored", stored)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply: (…, in) → (…, out) in the dtype of x."""
        weight, scale = self.stored.to(x.dtype), self.scale.to(x.dtype)
        if x.dtype == torch.float16:  # sums of integers would overflow it
            return F.linear(x, weight.mul_(scale[:, None]))
        # A row's scale commutes with the product, and integers up to 127 are exact. With the product on the left
        # torch.compile would replace both by a kernel for a few rows, and fail.
        return scale * F.linear(x, weight)

    def pin(self) -> RowLinear:
        """Return the layer in pinned host memory."""
        return RowLinear(*(buffer.cpu().pin_memory() for buffer in (self.stored, self.scale)))


class GroupLinear(nn.Module):
    """A linear layer with weights W[i, j] ≈ scale[i, g] · (stored[i, j] − zero[i, g]), stored in 4 bits, without bias.

    g is the group of `in / groups` neighbours that j belongs to. The low half of each byte belongs to the even j.
    """

    stored: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, stored: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> None:
        """Take `stored`, (out, in / 2) uint8, `scale`, (out, groups) float, and `zero`, (out, groups) uint8."""
        super().__init__()
        self.register_buffer("stored", stored)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return W, (out, in), in `dtype`."""
        rows, half = self.stored.shape
        weight = torch.empty(rows, 2 * half, dtype=dtype, device=self.stored.device)
        weight[:, 0::2] = self.stored & 15
        weight[:, 1::2] = self.stored >> 4
        groups = weight.unflatten(1, (self.scale.shape[1], -1))
        groups.sub_(self.zero.to(dtype)[..., None]).mul_(self.scale.to(dtype)[..., None])
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply: (…, in) → (…, out) in the dtype of x."""
        return F.linear(x, self.weight(x.dtype))

    def pin(self) -> GroupLinear:
        """Return the layer in pinned host memory."""
        return GroupLinear(*(buffer.cpu().pin_memory() for buffer in (self.stored, self.scale, self.zero)))


@torch.no_grad()
def quantized_linear(weight: torch.Tensor, quantize: str) -> RowLinear | GroupLinear:
    """Return a linear layer that stores `weight` in fewer bits, on the same device.

    Args:
        weight: (out, in) float.
        quantize: "int8" (a scale a row), "fp8" (e4m3, a scale a row), or "int4" (a scale and a zero point a group). A
            group has 64 numbers of a row, or the largest power of two below 64 that divides the row.

    Raises:
        SmaltiError: torchao is not installed, or a row cannot be cut into pairs.
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    if quantize == "fp8":
        largest = weight.abs().amax(dim=1).float()
        scale = torch.where(largest > 0, largest / _LARGEST_FP8, torch.ones_like(largest))
        stored = (weight.float() / scale[:, None]).clamp(-_LARGEST_FP8, _LARGEST_FP8)
        return RowLinear(stored.to(torch.float8_e4m3fn), scale)
    torchao = import_torchao()
    # The smallest scale. The default is bfloat16's epsilon, which is larger than most weights.
    least = torch.finfo(torch.float32).eps
    if quantize == "int8":
        row = (1, weight.shape[1])
        scale, zero = torchao.choose_qparams_affine(
            weight, torchao.MappingType.SYMMETRIC, row, torch.int8, eps=least, scale_dtype=torch.float32
        )
        return RowLinear(torchao.quantize_affine(weight, row, scale, zero, torch.int8), scale.flatten())
    block = (1, _group_size(weight.shape[1]))
    scale, zero = torchao.choose_qparams_affine(
        weight, torchao.MappingType.ASYMMETRIC, block, torch.uint8, 0, 15, eps=least, scale_dtype=weight.dtype
    )
    stored = torchao.quantize_affine(weight, block, scale, zero, torch.uint8, 0, 15)
    rows = len(weight)  # torchao drops the dimension of groups if there is one a row
    scale, zero = scale.reshape(rows, -1), zero.reshape(rows, -1).to(torch.uint8)
    return GroupLinear(stored[:, 0::2] | stored[:, 1::2] << 4, scale, zero)


def import_torchao() -> ModuleType:
    """Import `torchao.quantization`, without its warnings about optional kernels.

    Raises:
        SmaltiError: torchao is not installed.
    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import torchao.quantization
    except ImportError as error:
        raise SmaltiError(f"quantize needs torchao: pip install 'smalti[quantize]' ({error})") from error
    finally:
        logging.disable(level)
    return torchao.quantization


def _group_size(length: int) -> int:
    """Return the largest power of two up to `INT4_GROUP` that divides a row."""
    size = INT4_GROUP
    while length % size:
        size //= 2
    if size < 2:
        raise SmaltiError(f"quantize='int4' stores pairs, but a layer has rows of {length} numbers")
    return size
