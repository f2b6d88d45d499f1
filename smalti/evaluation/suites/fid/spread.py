"""The interval of a Fréchet distance: its deviation over resampled sets of prompts.

A resampled set holds some images twice, so its own distance is larger. The interval therefore takes the deviation of
such distances alone, around the distance of the whole set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from smalti.common.randomness import stream
from smalti.evaluation.frechet import Gaussian, fit, frechet_distance

DEVIATIONS = 1.96
"""Half of an interval of 95 %, in standard deviations."""

DESCRIPTION: dict[str, Any] = {
    "level": 0.95,
    "seed": 0,
    "unit": "prompt",
    "kind": f"{DEVIATIONS} standard deviations of resampled sets to each side",
}
"""Settings of the interval, for reports."""


def spread_interval(
    groups: Sequence[torch.Tensor], real: Gaussian, distance: float, samples: int
) -> list[float]:
    """Return [low, high] around a distance, rounded to 4 digits; low is at least 0.

    Args:
        groups: features of each prompt's images, (n, D) each.
        real: Gaussian of the real images.
        distance: distance of all images.
        samples: number of resampled sets; one has no deviation and gives [distance, distance].
    """
    generator = stream(DESCRIPTION["seed"], "bootstrap of a distance", 0)
    found = []
    for _ in range(samples):
        chosen = torch.randint(len(groups), (len(groups),), generator=generator).tolist()
        found.append(frechet_distance(fit(torch.cat([groups[index] for index in chosen])), real))
    spread = DEVIATIONS * float(torch.tensor(found, dtype=torch.float64).std()) if samples > 1 else 0.0
    return [round(max(distance - spread, 0.0), 4), round(distance + spread, 4)]
