"""Classifiers over tokens: what an image shows, differentiable in its tokens' vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from smalti.common.checks import quoted
from smalti.errors import SmaltiError


@dataclass(frozen=True, eq=False)
class TokenClassifier:
    """Any differentiable function of a grid of tokens, which it reads as vectors.

    Example:
        >>> codes = torch.tensor([[0.0], [1.0], [0.5]])  # two codes and the mask
        >>> bright = TokenClassifier(lambda vectors: vectors.mean(dim=(1, 2)), codes, ("bright",))
        >>> bright.index("bright")
        0

    Attributes:
        function: log-probabilities of the labels, (B, labels), up to a constant, of vectors (B, h, w, d) float32.
        codes: (V + 1, d) float32, vector of each code, and last that of the mask.
        labels: names of the labels.

    Raises:
        SmaltiError: an attribute is of another kind.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    codes: torch.Tensor
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        codes, labels = self.codes, self.labels
        if not callable(self.function):
            raise _wrong("have a function of vectors", self.function)
        if not isinstance(codes, torch.Tensor) or codes.ndim != 2 or not codes.is_floating_point():
            raise _wrong("have codes (V + 1, d) of floats", getattr(codes, "shape", codes))
        if not bool(codes.isfinite().all()):
            raise _wrong("have finite codes", "nan or inf")
        named = isinstance(labels, tuple) and all(isinstance(label, str) and label for label in labels)
        if not named or not labels or len(set(labels)) < len(labels):
            raise _wrong("have a tuple of labels, each of them once", labels)

    @classmethod
    def of_codebook(
        cls, function: Callable[[torch.Tensor], torch.Tensor], codebook: torch.Tensor, labels: tuple[str, ...]
    ) -> TokenClassifier:
        """Return the classifier that reads tokens as a codebook's vectors, (V, d), and a mask as their mean."""
        codes = codebook.detach().float()
        return cls(function, torch.cat([codes, codes.mean(dim=0, keepdim=True)]), labels)

    def index(self, label: str) -> int:
        """Return the number of a label; "first" is the first one unless another has that name.

        Raises:
            SmaltiError: there is no such label.
        """
        if label == "first" and label not in self.labels:
            return 0
        if label not in self.labels:
            known = ", ".join(map(quoted, self.labels[:20]))
            raise SmaltiError(
                f"steering's label must be one of {known}, not {quoted(label)}", argument="steering"
            )
        return self.labels.index(label)

    def to(self, device: torch.device) -> TokenClassifier:
        """Return the classifier on a device; a module moves, another function must be there already."""
        if isinstance(self.function, nn.Module):
            self.function.to(device)
        return TokenClassifier(self.function, self.codes.to(device), self.labels)

    def slope(self, tokens: torch.Tensor, label: int) -> torch.Tensor:
        """Return ∂ log p(label) / ∂ vectors, (h, w, d) float32, at a grid (h, w) int64; ids from V on are masks.

        Raises:
            SmaltiError: the function returns another shape, or has no finite gradient.
        """
        with torch.inference_mode(False), torch.enable_grad():
            rows = tokens.to(self.codes.device, copy=True).clamp_max(len(self.codes) - 1)
            vectors = self.codes[rows][None].requires_grad_()
            found = self.function(vectors)
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else found
            if shape != (1, len(self.labels)):
                raise _wrong(f"return (1, {len(self.labels)}) for one image", shape)
            if not found.requires_grad:
                raise _wrong("be differentiable in the vectors", "a function without a gradient")
            (slope,) = torch.autograd.grad(found[:, label].sum(), vectors, allow_unused=True)
        if slope is None:
            raise _wrong("be differentiable in the vectors", "a function without a gradient")
        if not bool(slope.isfinite().all()):
            raise _wrong("have a finite gradient", "nan or inf")
        return slope[0]


def _wrong(wanted: str, found: object) -> SmaltiError:
    """Return the error of a classifier that must be or do something else."""
    return SmaltiError(f"classifier must {wanted}, not {quoted(found)}", argument="classifier")


class ClassifierNetwork(nn.Module):
    """Log-probabilities of labels from the sum of the tokens' vectors: it knows which codes occur, and not where.

    The log-odds of two labels are linear in every vector. So the first-order form of guidance is exact up to the
    softmax's normalisation, at any grid. A code's vector is a function of its row in the image tokenizer's codebook, so
    that codes without a training image have sensible vectors. Masks have the vector 0.

    Args:
        codebook_dim: width of the codebook's vectors.
        labels: number of labels.
        dim: width of the vectors.
    """

    def __init__(self, codebook_dim: int, labels: int, dim: int = 32) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(codebook_dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.linear = nn.Linear(dim, labels)

    def codes(self, codebook: torch.Tensor) -> torch.Tensor:
        """Return the vector of each code and of the mask, (V + 1, dim), from the codebook (V, codebook_dim)."""
        scale = codebook.float().square().mean().sqrt().clamp_min(1e-8)
        vectors = self.embed(codebook.float() / scale)
        return torch.cat([vectors, torch.zeros_like(vectors[:1])])

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities, (B, labels), of vectors (B, h, w, dim)."""
        tokens = vectors.shape[1] * vectors.shape[2]
        return self.linear(vectors.sum(dim=(1, 2)) / math.sqrt(tokens)).log_softmax(dim=1)

    def classifier(self, codebook: torch.Tensor, labels: tuple[str, ...]) -> TokenClassifier:
        """Return the classifier over the tokens of a codebook, (V, codebook_dim); weights no longer learn."""
        with torch.no_grad():
            codes = self.codes(codebook)
        return TokenClassifier(self.eval().requires_grad_(False), codes, labels)
