"""The Fréchet distance: against closed forms, and what every distance promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.evaluation.frechet import Gaussian, fit, frechet_distance

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gaussian(generator: torch.Generator, dimension: int, rank: int | None = None) -> Gaussian:
    factor = normal(generator, dimension, dimension if rank is None else rank)
    return Gaussian(normal(generator, dimension), factor @ factor.T)


def rotation(generator: torch.Generator, dimension: int) -> torch.Tensor:
    return torch.linalg.qr(normal(generator, dimension, dimension))[0]


def test_one_dimension() -> None:
    one = Gaussian(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    other = Gaussian(torch.tensor([4.0]).double(), torch.tensor([[25.0]]).double())
    assert frechet_distance(one, other) == pytest.approx((4 - 1) ** 2 + (5 - 2) ** 2)


@given(sizes, seeds)
def test_covariances_of_the_same_axes(dimension: int, seed: int) -> None:
    """|m − m'|² + Σ (σ − σ')²."""
    generator = torch.Generator().manual_seed(seed)
    axes = rotation(generator, dimension)
    deviations = normal(generator, 2, dimension).abs()
    one, other = (
        Gaussian(normal(generator, dimension), axes * deviation**2 @ axes.T) for deviation in deviations
    )
    expected = (one.mean - other.mean).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


@given(sizes, seeds)
def test_a_gaussian_and_its_image(dimension: int, seed: int) -> None:
    """x → A x + b with A symmetric and positive moves mass the cheapest way, so the distance is E |A x + b − x|²."""
    generator = torch.Generator().manual_seed(seed)
    one = gaussian(generator, dimension)
    factor, shift = normal(generator, dimension, dimension), normal(generator, dimension)
    matrix = factor @ factor.T
    other = Gaussian(matrix @ one.mean + shift, matrix @ one.covariance @ matrix)
    change = matrix - torch.eye(dimension)
    expected = (other.mean - one.mean).square().sum() + (change @ one.covariance @ change).trace()
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)


@given(sizes, seeds, st.integers(1, 6))
def test_what_a_distance_is(dimension: int, seed: int, rank: int) -> None:
    """Zero to itself even where covariances have no full rank, the same both ways, and its root obeys the triangle."""
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (gaussian(generator, dimension, rank) for _ in range(3))
    scale = float(a.covariance.trace() + b.covariance.trace() + c.covariance.trace())
    assert 0 <= frechet_distance(a, a) <= 1e-12 * scale
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9, abs=1e-12 * scale)
    ab, bc, ac = (frechet_distance(*pair) ** 0.5 for pair in ((a, b), (b, c), (a, c)))
    assert ac <= ab + bc + 1e-6 * scale**0.5


@settings(max_examples=30)
@given(sizes, seeds, st.floats(0.1, 10))
def test_turned_moved_and_scaled_features(dimension: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other = normal(generator, 20, dimension), normal(generator, 30, dimension) * 2 + 1
    turn, shift = rotation(generator, dimension), normal(generator, dimension)
    before = frechet_distance(fit(one), fit(other))
    after = frechet_distance(fit(one @ turn * scale + shift), fit(other @ turn * scale + shift))
    assert after == pytest.approx(before * scale**2, rel=1e-9, abs=1e-9)


def test_fewer_images_than_features() -> None:
    features = torch.randn(10, 128, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(fit(features), fit(features)) < 1e-9
    # Two covariances whose ranges are at right angles share nothing.
    left, right = torch.zeros(2, 8, 6)
    left[:, :3] = features[:8, :3]
    right[:, 3:] = features[:8, 3:6]
    one, other = fit(left), fit(right)
    expected = (one.mean - other.mean).square().sum() + one.covariance.trace() + other.covariance.trace()
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-12)


def test_more_images_of_the_same_are_nearer() -> None:
    generator = torch.Generator().manual_seed(0)
    few, many = (
        frechet_distance(*(fit(normal(generator, count, 16)) for _ in range(2))) for count in (50, 5000)
    )
    assert 0 < many < few / 20


def test_fit_is_mean_and_covariance_in_float64() -> None:
    features = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) + 1000
    found = fit(features)
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    assert torch.allclose(found.mean, features.double().mean(dim=0), rtol=1e-12)
    assert torch.allclose(found.covariance, features.double().T.cov(), rtol=1e-9)


@pytest.mark.parametrize(
    ("features", "named"),
    [
        (torch.zeros(1, 4), "at least 2 images, not 1"),
        (torch.zeros(4), r"\(N, D\), not torch.float32 \(4,\)"),
        (torch.zeros(4, 4, dtype=torch.int64), "floating-point"),
        (torch.full((4, 4), torch.nan), "finite"),
    ],
)
def test_wrong_features_are_named(features: torch.Tensor, named: str) -> None:
    with pytest.raises(SmaltiError, match=named):
        fit(features)


def test_gaussians_of_different_dimension() -> None:
    with pytest.raises(SmaltiError, match="dimension, not 2 and 3"):
        frechet_distance(fit(torch.randn(5, 2)), fit(torch.randn(5, 3)))
