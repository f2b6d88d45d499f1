"""Linear layers whose weights are stored in 8 or 4 bits and multiplied in the activations' dtype.

For integers, torchao chooses the scales and rounds; fp8 is a cast. The 4-bit layouts of torchao are made for particular
GPUs and for a few rows at a time, so Smalti has its own storage and product. The same plain tensors serve a CPU, a GPU
and streaming between them. A matrix is unpacked once for the thousands of rows of a pass.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from smalti.common.checks import check_choice, quoted
from smalti.errors import SmaltiError
from smalti.runtime.blocks import BlockLinear, cast_input
from smalti.runtime.memory import INT4_GROUP
from smalti.runtime.scaled_products import choose_kernel, scaled_product
from smalti.runtime.streaming import StreamedLayers

QUANTIZATIONS = ("int8", "int4", "fp8")
INT4_GROUPS = (16, 32, 64, 128, 256)
_BLOCK = 2**24  # numbers that are rounded at a time
_LARGEST_FP8 = torch.finfo(torch.float8_e4m3fn).max


class RowLinear(nn.Module):
    """A linear layer with weights W[i, j] ≈ scale[i] · stored[i, j] in int8 or float8_e4m3fn, without bias.

    Its tensors are frozen parameters, so that they are moved, sharded and saved as such. Backward keeps them alone.

    Attributes:
        in_features: number of columns of W.
        out_features: number of rows of W.
        kernel: how x is multiplied if it is rounded to 8 bits, too (smalti/runtime/scaled_products.py), or None.
    """

    kernel: str | None = None

    def __init__(self, stored: torch.Tensor, scale: torch.Tensor) -> None:
        """Take `stored`, (out, in) int8 or float8_e4m3fn, and `scale`, (out,) float."""
        super().__init__()
        self.out_features, self.in_features = stored.shape
        self.stored = nn.Parameter(stored, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """Return W, (out, in), in `dtype`."""
        return _row_matrix(self.stored, self.scale, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply: (…, in) → (…, out) in the dtype of x, or in autocast's where it is on."""
        x = cast_input(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            if self.kernel is not None:
                return scaled_product(x, self.stored, self.scale, self.kernel)
            return _row_product(x, self.stored, self.scale)
        product: torch.Tensor = _RowProduct.apply(x, self.stored, self.scale)
        return product

    def pin(self) -> RowLinear:
        """Return the layer in pinned host memory."""
        return RowLinear(*(parameter.data.cpu().pin_memory() for parameter in (self.stored, self.scale)))


class GroupLinear(nn.Module):
    """A linear layer with weights W[i, j] ≈ scale[i, g] · (stored[i, j] − zero[i, g]), stored in 4 bits, without bias.

    g is the group of `in / groups` neighbours that j belongs to. The low half of each byte belongs to the even j.
    Attributes and parameters are as in `RowLinear`.
    """

    def __init__(self, stored: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> None:
        """Take `stored`, (out, in / 2) uint8, `scale`, (out, groups) float, and `zero`, (out, groups) uint8."""
        super().__init__()
        self.out_features, self.in_features = len(stored), 2 * stored.shape[1]
        self.stored = nn.Parameter(stored, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.zero = nn.Parameter(zero, requires_grad=False)

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """Return W, (out, in), in `dtype`."""
        return _group_matrix(self.stored, self.scale, self.zero, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply: (…, in) → (…, out) in the dtype of x, or in autocast's where it is on."""
        x = cast_input(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return F.linear(x, self.dequantize(x.dtype))
        product: torch.Tensor = _GroupProduct.apply(x, self.stored, self.scale, self.zero)
        return product

    def pin(self) -> GroupLinear:
        """Return the layer in pinned host memory."""
        stored, scale, zero = (part.data.cpu().pin_memory() for part in (self.stored, self.scale, self.zero))
        return GroupLinear(stored, scale, zero)


class _RowProduct(torch.autograd.Function):
    """The product of a `RowLinear`.

    PyTorch would keep the matrix for backward in the activations' dtype, which is larger than what is stored.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(stored, scale)
        return _row_product(x, stored, scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        stored, scale = ctx.saved_tensors
        return (gradient * scale.to(gradient.dtype)) @ stored.to(gradient.dtype), None, None


class _GroupProduct(torch.autograd.Function):
    """The product of a `GroupLinear`, which keeps for backward what is stored."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, stored: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(stored, scale, zero)
        return F.linear(x, _group_matrix(stored, scale, zero, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        stored, scale, zero = ctx.saved_tensors
        return gradient @ _group_matrix(stored, scale, zero, gradient.dtype), None, None, None


def _row_product(x: torch.Tensor, stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    if x.dtype == torch.float16:  # sums of integers would overflow it
        return F.linear(x, _row_matrix(stored, scale, x.dtype))
    # A row's scale commutes with the product, and integers up to 127 are exact. With the product on the left
    # torch.compile would replace both by a kernel for a few rows, and fail.
    return scale.to(x.dtype) * F.linear(x, stored.to(x.dtype))


def _row_matrix(stored: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return stored.to(dtype).mul_(scale.to(dtype)[:, None])


def _group_matrix(
    stored: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    rows, half = stored.shape
    weight = torch.empty(rows, 2 * half, dtype=dtype, device=stored.device)
    weight[:, 0::2] = stored & 15
    weight[:, 1::2] = stored >> 4
    groups = weight.unflatten(1, (scale.shape[1], -1))
    groups.sub_(zero.to(dtype)[..., None]).mul_(scale.to(dtype)[..., None])
    return weight


def round_activations(denoiser: nn.Module) -> int:
    """Let the layers that store int8 or fp8 also round what they multiply; return how many there are.

    Raises:
        SmaltiError: there are none.
    """
    parts = [*denoiser.modules()]
    for module in denoiser.modules():
        if isinstance(module, StreamedLayers):
            # The modules that layers are copied into are not children of anything.
            parts += [part for layer in module.on_device for part in layer.modules()]
    layers = [part for part in parts if isinstance(part, RowLinear)]
    for layer in layers:
        layer.kernel = choose_kernel(layer.stored)
    if not layers:
        raise SmaltiError(
            "quantize_activations needs layers in int8 or fp8: set quantize as well",
            argument="quantize_activations",
        )
    return len(layers)


def is_quantized(module: nn.Module) -> bool:
    """Return whether a module, or one inside it, stores its matrix in fewer bits."""
    return any(isinstance(part, RowLinear | GroupLinear | BlockLinear) for part in module.modules())


@torch.no_grad()
def quantized_linear(weight: torch.Tensor, quantize: str, group: int = INT4_GROUP) -> RowLinear | GroupLinear:
    """Return a linear layer that stores `weight` in fewer bits, on the same device.

    Args:
        weight: (out, in) float.
        quantize: "int8" (a scale a row), "fp8" (e4m3, a scale a row), or "int4" (a scale and a zero point a group).
        group: numbers of a row in a group of "int4", a power of two from 16 to 256. Where it does not divide the row,
            the largest power of two below it that does takes its place.

    Raises:
        SmaltiError: torchao is not installed, a row cannot be cut into pairs, or another number for a group.
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    check_group(group)
    rows = max(1, _BLOCK // weight.shape[1])
    if len(weight) <= rows:
        return _quantized(weight, quantize, group)
    # A row's numbers do not depend on other rows, and the work on one block takes little memory.
    blocks = [list(_quantized(part, quantize, group).parameters()) for part in weight.split(rows)]
    stored, scale, *zero = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return GroupLinear(stored, scale, *zero) if zero else RowLinear(stored, scale)


def check_group(group: object, name: str = "group") -> int:
    """Return the numbers of a group of "int4", or raise SmaltiError that starts with `name` for another size."""
    if type(group) is not int or group not in INT4_GROUPS:
        raise SmaltiError(
            f"{name} must be {', '.join(map(str, INT4_GROUPS[:-1]))} or {INT4_GROUPS[-1]}, not {quoted(group)}",
            argument=name,
        )
    return group


def _quantized(weight: torch.Tensor, quantize: str, group: int) -> RowLinear | GroupLinear:
    """Return a layer as `quantized_linear` does, made of all rows at once."""
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
    block = (1, _group_size(weight.shape[1], group))
    scale, zero = torchao.choose_qparams_affine(
        weight, torchao.MappingType.ASYMMETRIC, block, torch.uint8, 0, 15, eps=least, scale_dtype=weight.dtype
    )
    stored = torchao.quantize_affine(weight, block, scale, zero, torch.uint8, 0, 15)
    rows = len(weight)  # torchao drops the dimension of groups if there is one a row
    scale, zero = scale.reshape(rows, -1), zero.reshape(rows, -1).to(torch.uint8)
    return GroupLinear(stored[:, 0::2] | stored[:, 1::2] << 4, scale, zero)


def empty_linear(
    rows: int, columns: int, quantize: str, dtype: torch.dtype, group: int = INT4_GROUP
) -> RowLinear | GroupLinear:
    """Return a layer of this size on the meta device, to count its bytes.

    Args:
        rows, columns: shape of its matrix, (out, in).
        quantize, group: as for `quantized_linear`.
        dtype: dtype of the matrix before it is stored.
    """
    with torch.device("meta"):
        if quantize == "int4":
            groups = columns // _group_size(columns, group)
            stored = torch.empty(rows, columns // 2, dtype=torch.uint8)
            zero = torch.empty(rows, groups, dtype=torch.uint8)
            return GroupLinear(stored, torch.empty(rows, groups, dtype=dtype), zero)
        kind = torch.float8_e4m3fn if quantize == "fp8" else torch.int8
        return RowLinear(torch.empty(rows, columns, dtype=kind), torch.empty(rows, dtype=torch.float32))


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


def _group_size(length: int, size: int) -> int:
    """Return the largest power of two up to `size` that divides a row."""
    while length % size:
        size //= 2
    if size < 2:
        raise SmaltiError(f"quantize='int4' stores pairs, but a layer has rows of {length} numbers")
    return size
