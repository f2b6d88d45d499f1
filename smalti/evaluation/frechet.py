"""The Fréchet distance between two sets of images, as in FID (Heusel et al., 2017, arXiv 1706.08500, equation 6).

FID uses the features of an Inception network trained on photographs; here they are those of `features.py`. As in FID,
each set is fitted by a Gaussian. The distance between two finite samples of one distribution is above 0 and grows as
they shrink. Only distances between sets of the same sizes can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smalti.errors import SmaltiError


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The Gaussian that is fitted to a set of images.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, symmetric, no eigenvalue below 0.
    """

    mean: torch.Tensor
    covariance: torch.Tensor


def fit(features: torch.Tensor) -> Gaussian:
    """Fit a Gaussian to features, (N, D) floating-point: mean and covariance (divided by N − 1).

    Raises:
        SmaltiError: the features are fewer than two, of another shape, or not finite.
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise SmaltiError(
            f"features must be floating-point (N, D), not {features.dtype} {tuple(features.shape)}"
        )
    if len(features) < 2:
        raise SmaltiError(f"features must be those of at least 2 images, not {len(features)}")
    points = features.detach().cpu().double()
    if not points.isfinite().all():
        raise SmaltiError("features must be finite numbers")
    mean = points.mean(dim=0)
    centered = points - mean
    return Gaussian(mean, centered.T @ centered / (len(points) - 1))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Return |m − m'|² + tr(C + C' − 2 (C C')^½), the squared distance that FID reports (Heusel et al., equation 6).

    tr (C C')^½ is the sum of the singular values of C^½ C'^½, which needs roots of symmetric matrices only. A root of
    C C' would amplify rounding errors where images are too few for covariances of full rank.

    Raises:
        SmaltiError: the Gaussians differ in dimension.
    """
    if one.mean.shape != other.mean.shape:
        raise SmaltiError(
            f"Gaussians must have the same dimension, not {len(one.mean)} and {len(other.mean)}"
        )
    shared = torch.linalg.svdvals(_root(one.covariance) @ _root(other.covariance)).sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * shared
    # Rounding can give a little less than 0 for two equal sets.
    return max(float((one.mean - other.mean).square().sum() + spread), 0.0)


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """Return the symmetric square root, (D, D) float64, of a symmetric matrix without eigenvalues below 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T
