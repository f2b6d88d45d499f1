"""The update of one matrix: what LoRA, rsLoRA and DoRA add to the output of a frozen layer.

With a frozen matrix W, (out, in), and trained A, (r, in), and B, (out, r), an adapted layer computes

    LoRA (arXiv 2106.09685)    W' = W + s · B A,  s = alpha / r
    rsLoRA (arXiv 2312.03732)  the same with s = alpha / √r
    DoRA (arXiv 2402.09353)    W' = c ∘ (W + s · B A) by rows,  c = m / ‖W + s · B A‖

with a trained magnitude m, (out,); the norm has no gradient. W' is never built, so W may be stored in 8 or 4 bits.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F


class Adapter(nn.Module):
    """The update of one matrix.

    Args:
        down: A, (r, in), or (r, in, 2, 2) for a convolution.
        up: B, (out, r), or (out, r, 1, 1) for a convolution.
        magnitude: m, (out,), for DoRA, or None.
        scale: s.
        dropout: probability that a value is dropped on its way to A, while training.
        label: name of the set of adapters that it belongs to.
    """

    strength: torch.Tensor

    def __init__(
        self,
        down: torch.Tensor,
        up: torch.Tensor,
        magnitude: torch.Tensor | None = None,
        *,
        scale: float,
        dropout: float = 0.0,
        label: str = "default",
    ) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)
        self.scale, self.dropout, self.label = scale, dropout, label
        # The factor of W' − W. A recorded or compiled pass would keep a plain number for ever.
        self.register_buffer("strength", torch.ones((), device=down.device), persistent=False)

    def forward(self, x: torch.Tensor, output: torch.Tensor, base: nn.Module) -> torch.Tensor:
        """Return (W' − W) x in the dtype of `output`, which is W x, for a layer `base` with the matrix W."""
        dropped = F.dropout(x, self.dropout, self.training)
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        reduced = F.conv2d(dropped, down, stride=2) if down.ndim == 4 else F.linear(dropped, down)
        reduced = reduced * (self.scale * self.strength)
        change = F.conv2d(reduced, up) if down.ndim == 4 else F.linear(reduced, up)
        factor = self.row_factor(base)
        if factor is not None:
            factor = factor.view(-1, *[1] * (down.ndim - 2))
            of_output = (factor - 1) * self.strength
            change = factor.to(change.dtype) * change + of_output.to(change.dtype) * output
        return change.to(output.dtype)

    def row_factor(self, base: nn.Module) -> torch.Tensor | None:
        """Return DoRA's c, (out,) float32 with a gradient to m alone; None without a magnitude."""
        if self.magnitude is None:
            return None
        with torch.no_grad(), torch.autocast(self.down.device.type, enabled=False):
            norm = self._norm(base)
        return self.magnitude.float() / norm

    def _norm(self, base: nn.Module) -> torch.Tensor:
        """Return ‖W + s · B A‖ of each row, (out,) float32, from three small products in place of B A."""
        down, up = self.down.flatten(1).float(), self.up.flatten(1).float()
        crossed = _rows_times(base, self.down.flatten(1)).float()  # A Wᵀ
        square = row_norms(base).square()
        square += 2 * self.scale * (up * crossed.T).sum(dim=1)
        square += self.scale**2 * (up @ (down @ down.T) * up).sum(dim=1)
        return square.clamp_min(torch.finfo(torch.float32).tiny).sqrt()

    @torch.no_grad()
    def difference(self, base: nn.Module) -> torch.Tensor:
        """Return strength · (W' − W), in the shape of W, float32, for a layer that is not quantized."""
        weight = cast(torch.Tensor, base.weight)
        change = self.scale * (self.up.flatten(1).float() @ self.down.flatten(1).float())
        factor = self.row_factor(base)
        if factor is not None:
            change = factor[:, None] * change + (factor - 1)[:, None] * weight.flatten(1).float()
        return (self.strength * change).view_as(weight)

    def extra_repr(self) -> str:
        """Return rank and scale, for printing."""
        return f"rank={len(self.down)}, scale={self.scale:g}"


def matrix_shape(module: nn.Module) -> tuple[int, ...]:
    """Return the shape of a layer's matrix, (out, in) or that of a convolution, however it is stored."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, torch.Tensor):
        return tuple(weight.shape)
    return cast(int, module.out_features), cast(int, module.in_features)


def row_norms(base: nn.Module) -> torch.Tensor:
    """Return the norm of each row of a layer's matrix, (out,) float32."""
    weight = getattr(base, "weight", None)
    if not isinstance(weight, torch.Tensor):  # a quantized layer
        weight = base.dequantize(torch.float32)  # type: ignore[operator]
    return torch.linalg.vector_norm(weight.detach().flatten(1), dim=1, dtype=torch.float32)


def _rows_times(base: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Return rows · Wᵀ, (r, out), without the adapters of the layer."""
    weight = getattr(base, "weight", None)
    if isinstance(weight, torch.Tensor):
        return F.linear(rows.to(weight.dtype), weight.flatten(1))
    return cast(torch.Tensor, base.forward(rows))
