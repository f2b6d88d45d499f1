"""Products of quantized layers in 8 bits: what a matrix multiplies is rounded as well, with a scale for each row.

x[r] ≈ a[r] · q[r] in int8 or float8_e4m3fn, chosen when the product runs ("dynamic"). With stored weights
W[i] ≈ s[i] · w[i], x·Wᵀ ≈ a[r] · s[i] · (q·wᵀ). Processors and GPUs multiply 8-bit numbers two to four times as fast as
16-bit ones. Where they cannot, the same numbers are multiplied in float32.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F

INT_MM, SCALED_MM, PLAIN = "int_mm", "scaled_mm", "plain"
_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: torch.finfo(torch.float8_e4m3fn).max}
_LEAST_SCALE = 1e-30  # of a row of zeros
_FEW = 16  # rows up to which CUDA's product of integers refuses to run
_UNIT = 16  # sides of a matrix of which the GPU's products need multiples


def round_rows(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row of x, (n, k) float, to 8 bits.

    Args:
        x: (n, k). A row with NaN or infinity has a scale that is not finite.
        dtype: int8 or float8_e4m3fn.

    Returns:
        (n, k) in `dtype`, and scales (n, 1) float32: x ≈ scale · rounded.
    """
    largest = _LARGEST[dtype]
    scale = (x.abs().amax(dim=1, keepdim=True).float() / largest).clamp_min(_LEAST_SCALE)
    scaled = x.float() / scale
    if dtype == torch.int8:
        return scaled.round_().to(dtype), scale
    return scaled.clamp_(-largest, largest).to(dtype), scale


def scaled_product(
    x: torch.Tensor, stored: torch.Tensor, scale: torch.Tensor, kernel: str = PLAIN
) -> torch.Tensor:
    """Multiply x, (…, k), by the transpose of scale · stored, with x rounded by rows: (…, n) in the dtype of x.

    Args:
        x: float.
        stored: (n, k) int8 or float8_e4m3fn.
        scale: (n,) float32.
        kernel: "int_mm", "scaled_mm" or "plain", as `choose_kernel` returns it.
    """
    rows = x.flatten(0, -2)
    rounded, row_scale = round_rows(rows, stored.dtype)
    if kernel == SCALED_MM:
        product = torch._scaled_mm(
            rounded,
            stored.T,
            row_scale,
            scale.float()[None],
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
    elif kernel == INT_MM and (not x.is_cuda or len(rows) > _FEW):
        product = torch._int_mm(rounded, stored.T).float().mul_(row_scale).mul_(scale.float())
    else:
        product = F.linear(rounded.float(), stored.float()).mul_(row_scale).mul_(scale.float())
    return product.to(x.dtype).unflatten(0, x.shape[:-1])


def choose_kernel(stored: torch.Tensor) -> str:
    """Return the fastest kernel for a stored matrix (n, k) on its device; "plain" is float32, for any."""
    if stored.device.type == "cuda" and any(side % _UNIT for side in stored.shape):
        return PLAIN
    return _kernel(stored.device, stored.dtype)


@functools.cache
def _kernel(device: torch.device, dtype: torch.dtype) -> str:
    kernel = INT_MM if dtype == torch.int8 else SCALED_MM
    if device.type == "cpu":
        # Without these instructions oneDNN's integer products are slower than float32, and may saturate. For fp8 it
        # has no fast product at all.
        fast = kernel == INT_MM and getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
        return kernel if fast else PLAIN
    if device.type != "cuda":
        return PLAIN
    x = torch.ones(2 * _UNIT, _UNIT, dtype=torch.bfloat16, device=device)
    ones = torch.ones(_UNIT, _UNIT, device=device).to(dtype)
    try:
        found = scaled_product(x, ones, torch.ones(_UNIT, device=device), kernel)
    except (RuntimeError, ValueError, TypeError):
        return PLAIN  # an older GPU or an older PyTorch
    return kernel if bool((found == _UNIT).all()) else PLAIN
