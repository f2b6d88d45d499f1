"""Index-backpropagation quantization: feature vectors to codes and back (IBQ, arXiv 2412.02692)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from smalti.vq.config import VQConfig

_CHUNK_ELEMENTS = 2**21  # dot products held at a time: 8 MB in float32, which a CPU's cache holds


class Quantized(NamedTuple):
    """The result of quantizing a batch of feature maps for training.

    Attributes:
        z: (B, C, h, w), the codes' vectors; gradients reach the encoder and every code.
        tokens: (B, h, w) int64 ids.
        commitment: scalar, mean squared distance between normalised features and their codes; pulls both together.
        entropy: scalar in nats, mean entropy of a position's distribution minus the entropy of their mean. It is
            low when every position has one clear code and all codes are in use.
    """

    z: torch.Tensor
    tokens: torch.Tensor
    commitment: torch.Tensor
    entropy: torch.Tensor


class Quantizer(nn.Module):
    """A codebook of V vectors. The id of a position is the code with the largest dot product, not the nearest.

    Smalti's training keeps codes on the unit sphere (`normalize_codes`), where the two are the same. Otherwise a few
    long codes would win every position. Beside a linear encoder it is the nearest code, of any length.
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.embed_dim)
        self.nearest = config.encoder == "linear"

    @torch.no_grad()
    def normalize_codes(self) -> None:
        """Scale every code to length 1."""
        self.embedding.weight.div_(self.embedding.weight.norm(dim=1, keepdim=True).clamp_min(1e-8))

    def tokens(self, z: torch.Tensor) -> torch.Tensor:
        """Return the ids of feature vectors: (B, C, h, w) → (B, h, w) int64, a few thousand positions at a time."""
        B, C, h, w = z.shape
        # In fewer bits dot products tie or overflow, and other codes win.
        codes = self.embedding.weight.to(torch.promote_types(self.embedding.weight.dtype, torch.float32))
        rows = z.permute(0, 2, 3, 1).reshape(-1, C).to(codes.dtype)
        # ‖z − e‖² = ‖z‖² − 2 (z·e − ‖e‖² / 2)
        offsets = codes.square().sum(dim=1) / -2
        ids = torch.empty(len(rows), dtype=torch.long, device=z.device)
        # The ids are allocated once: small results between large ones leave holes, and memory grows at each part.
        size = max(1, _CHUNK_ELEMENTS // len(codes))
        for part, found in zip(rows.split(size), ids.split(size), strict=True):
            products = torch.addmm(offsets, part, codes.T) if self.nearest else part @ codes.T
            found.copy_(products.argmax(dim=1))
        return ids.reshape(B, h, w)

    def lookup(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the vectors of codes: (B, h, w) ids → (B, C, h, w)."""
        return self.embedding(tokens).permute(0, 3, 1, 2)

    def forward(self, z: torch.Tensor, temperature: float) -> Quantized:
        """Quantize for training: the chosen codes forward, the softmax over the whole codebook backward.

        With p = softmax(ẑ·Eᵀ / temperature), the indicator is onehot(argmax) + p − stop_gradient(p). Its value is the
        hard choice. Its gradient is the softmax's, so every code takes part in every position (section 3.2). ẑ is z
        scaled to length 1, which changes no choice.
        """
        B, C, h, w = z.shape
        rows = F.normalize(z.permute(0, 2, 3, 1).reshape(-1, C).float(), dim=1)
        codebook = self.embedding.weight.float()
        with torch.autocast(z.device.type, enabled=False):
            logits = rows @ codebook.T / temperature
            log_p = logits.log_softmax(dim=1)
            p = log_p.exp()
            ids = logits.argmax(dim=1)
            chosen = self.embedding(ids).float()
            # p − stop_gradient(p) is zero, so its product with the codebook only carries the gradient to p.
            quantized = chosen + (p - p.detach()) @ codebook.detach()
            commitment = (rows - chosen).square().sum(dim=1).mean()
            mean = p.mean(dim=0)
            entropy = (mean * mean.clamp_min(1e-12).log()).sum() - (p * log_p).sum(dim=1).mean()
        return Quantized(
            quantized.reshape(B, h, w, C).permute(0, 3, 1, 2), ids.reshape(B, h, w), commitment, entropy
        )
