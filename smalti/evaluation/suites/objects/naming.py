"""The networks of the scorer that name crops, and their common verdict."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from smalti.evaluation.suites.objects.edges import DESCRIPTION, MAPS, describe, draw_maps
from smalti.evaluation.suites.objects.networks import convolution

_WIDTHS = (112, 176, 64)
_HIDDEN, _DESCRIBED = 512, 192
_FEATURES = 256
_SCALE = 16.0  # of cosines, so that a noun can be almost certain
_LEAST = 1e-5


class NounClassifiers(nn.Module):
    """Classifiers of two kinds that name crops together.

    Args:
        nouns: number of nouns.
        mapped: number of classifiers by maps of edges.
        described: number of classifiers by descriptions.
    """

    def __init__(self, nouns: int, mapped: int = 1, described: int = 1) -> None:
        super().__init__()
        self.mapped = nn.ModuleList(MapClassifier(nouns) for _ in range(mapped))
        self.described = nn.ModuleList(DescriptionClassifier(nouns) for _ in range(described))

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the nouns, and of anything else, (B, nouns + 1).

        Both kinds have the same weight. Each sees a crop and its mirror image.

        Args:
            crops: (B, 4, 40, 40) as `smalti.evaluation.suites.objects.crops` cuts them.
        """
        views = torch.cat([crops, crops.flip(3)])
        kinds = []
        for members in (self.mapped, self.described):
            if len(members):
                shares = torch.stack([member(views).softmax(dim=1) for member in members]).mean(0)
                kinds.append(shares.unflatten(0, (2, -1)).mean(0))
        # A geometric mean: what one kind rules out is unlikely.
        together = torch.stack(kinds).clamp_min(_LEAST).log().mean(0).exp()
        return together / together.sum(dim=1, keepdim=True)


class MapClassifier(nn.Module):
    """A small residual network over maps of edges: one logit for each noun and a last one for anything else.

    Args:
        nouns: number of nouns.
    """

    def __init__(self, nouns: int) -> None:
        super().__init__()
        first, second, last = _WIDTHS
        self.body = nn.Sequential(
            convolution(MAPS, first),
            _Residual(first),
            convolution(first, second, 3, 2),
            _Residual(second),
            nn.Conv2d(second, last, 1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(last * 25, _FEATURES),
        )
        self.head = nn.Linear(_FEATURES, nouns + 1, bias=False)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return (B, nouns + 1) logits of crops (B, 4, 40, 40)."""
        with torch.autocast("cpu", enabled=False):
            maps = draw_maps(crops.float())
        features = self.body(maps.contiguous(memory_format=torch.channels_last)).float()
        return _cosines(features, self.head.weight)


class DescriptionClassifier(nn.Module):
    """A network with one hidden layer over a description: one logit for each noun and a last one for anything else.

    Args:
        nouns: number of nouns.
    """

    def __init__(self, nouns: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(DESCRIPTION, affine=False)
        self.hidden = nn.Linear(DESCRIPTION, _HIDDEN)
        self.norm = nn.LayerNorm(_HIDDEN)
        self.out = nn.Linear(_HIDDEN, _DESCRIBED)
        self.head = nn.Linear(_DESCRIBED, nouns + 1, bias=False)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return (B, nouns + 1) logits of crops (B, 4, 40, 40)."""
        return self.named(describe(crops))

    def named(self, descriptions: torch.Tensor) -> torch.Tensor:
        """Return (B, nouns + 1) logits of what `describe` returns."""
        x = F.dropout(self.scale(descriptions), 0.1, self.training)
        x = F.dropout(F.gelu(self.norm(self.hidden(x))), 0.2, self.training)
        return _cosines(self.out(x), self.head.weight)


class _Residual(nn.Module):
    """A convolution whose output is added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = convolution(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(x)


def _cosines(features: torch.Tensor, nouns: torch.Tensor) -> torch.Tensor:
    """Return the logits of features, (B, n): cosines of their angles to those of nouns, scaled."""
    return _SCALE * F.normalize(features, dim=1) @ F.normalize(nouns.float(), dim=1).T
