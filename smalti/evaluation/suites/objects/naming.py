"""Several classifiers that name crops together."""

from __future__ import annotations

import torch
from torch import nn

from smalti.evaluation.suites.objects.gradients import GradientClassifier
from smalti.evaluation.suites.objects.networks import NounClassifier

_LEAST = 1e-5


class NounClassifiers(nn.Module):
    """Classifiers by pixels and by edges, whose verdicts are averaged.

    Args:
        nouns: number of nouns.
        pixels: number of classifiers by pixels.
        edges: number of classifiers by edges.
    """

    def __init__(self, nouns: int, pixels: int = 1, edges: int = 1) -> None:
        super().__init__()
        self.pixels = nn.ModuleList(NounClassifier(nouns) for _ in range(pixels))
        self.edges = nn.ModuleList(GradientClassifier(nouns) for _ in range(edges))

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the nouns, and of anything else, (B, nouns + 1).

        Both kinds have the same weight. Each sees a crop and its mirror image.

        Args:
            crops: (B, 4, 40, 40) as `smalti.evaluation.suites.objects.crops` cuts them.
        """
        views = torch.cat([crops, crops.flip(3)])
        kinds = []
        for members in (self.pixels, self.edges):
            if len(members):
                shares = torch.stack([member(views).float().softmax(dim=1) for member in members]).mean(0)
                kinds.append(shares.unflatten(0, (2, -1)).mean(0))
        # A geometric mean: what one kind rules out is unlikely.
        together = torch.stack(kinds).clamp_min(_LEAST).log().mean(0).exp()
        return together / together.sum(dim=1, keepdim=True)
