"""The Fréchet distance between two sets of images, as in FID (Heusel et al., 2017, arXiv 1706.08500, equation 6).

A Gaussian is fitted to the features of each set; the caller chooses the features. The distance between two finite
samples of one distribution is above 0 and grows as the samples shrink. Only distances between sets of the same sizes
can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from smalti.errors import SmaltiError


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian that is fitted to the features of a set of images.

    Attributes:
        mean: mean of the features, (D,) float64.
        covariance: covariance of the features, (D, D) float64, symmetric, without negative eigenvalues.
    """

    mean: torch.Tensor
    covariance: torch.Tensor

    @cached_property
    def root(self) -> torch.Tensor:
        """The symmetric square root of the covariance, (D, D) float64, computed once."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors * values.clamp_min(0).sqrt() @ vectors.T


def fit(features: torch.Tensor) -> Gaussian:
    """Fit a Gaussian to features, (N, D) floating-point: mean and covariance (divided by N − 1).

    Raises:
        SmaltiError: the features are fewer than two, of another shape or dtype, or not finite.
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise SmaltiError(
            f"features must be floating-point (N, D), not {features.dtype} {tuple(features.shape)}",
            argument="features",
        )
    if len(features) < 2:
        raise SmaltiError(
            f"features must be those of at least 2 images, not {len(features)}", argument="features"
        )
    points = features.detach().cpu().double()
    if not points.isfinite().all():
        raise SmaltiError("features must be finite numbers", argument="features")
    mean = points.mean(dim=0)
    centered = points - mean
    return Gaussian(mean, centered.T @ centered / (len(points) - 1))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Return |m − m'|² + tr(C + C' − 2 (C C')^½), the squared distance that FID reports.

    tr (C C')^½ is the sum of the singular values of C^½ C'^½, which needs roots of symmetric matrices only. A root of
    C C' would amplify rounding errors if the images are too few for covariances of full rank.

    Raises:
        SmaltiError: the Gaussians have different dimensions.

    Example:
        >>> one = fit(torch.eye(3))
        >>> frechet_distance(one, one)
        0.0
    """
    if one.mean.shape != other.mean.shape:
        raise SmaltiError(
            f"Gaussians must have the same dimension, not {len(one.mean)} and {len(other.mean)}"
        )
    shared = torch.linalg.svdvals(one.root @ other.root).sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * shared
    # Rounding can give a little less than 0 for two equal sets.
    return max(float((one.mean - other.mean).square().sum() + spread), 0.0)
