"""Confidence intervals by bootstrap over prompts: the images of a prompt are drawn together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from smalti.common.randomness import stream

SAMPLES = 1000
"""Number of resampled sets of prompts."""

LEVEL = 0.95
"""Share of the resampled scores inside an interval."""

DESCRIPTION: dict[str, Any] = {"samples": SAMPLES, "level": LEVEL, "seed": 0, "unit": "prompt"}
"""Settings of the intervals, for reports."""


def intervals(groups: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """Return the interval of each group's mean, and under "mean" that of the mean over groups.

    Args:
        groups: for each group the scores of each prompt's images; a prompt has at least one.

    Returns:
        [low, high] of each group, rounded to 4 digits. They depend on the scores alone.

    Example:
        >>> intervals({"colors": [[1, 1], [1, 1]]})
        {'colors': [1.0, 1.0], 'mean': [1.0, 1.0]}
    """
    drawn = {name: _resampled(scores, index) for index, (name, scores) in enumerate(groups.items())}
    found = {name: _bounds(means) for name, means in drawn.items()}
    return {**found, "mean": _bounds(torch.stack(list(drawn.values())).mean(dim=0))}


def _resampled(scores: Sequence[Sequence[float]], index: int) -> torch.Tensor:
    """Return the means of resampled sets of prompts, (SAMPLES,) float64."""
    sums = torch.tensor([float(sum(images)) for images in scores], dtype=torch.float64)
    counts = torch.tensor([float(len(images)) for images in scores], dtype=torch.float64)
    generator = stream(DESCRIPTION["seed"], "bootstrap", index)
    chosen = torch.randint(len(sums), (SAMPLES, len(sums)), generator=generator)
    return sums[chosen].sum(dim=1) / counts[chosen].sum(dim=1)


def _bounds(means: torch.Tensor) -> list[float]:
    """Return the bounds of the middle `LEVEL` of some means."""
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=means.dtype)
    return [round(float(bound), 4) for bound in torch.quantile(means, ends)]
