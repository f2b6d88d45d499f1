"""Subsampling of tokens whose codes are common."""

from __future__ import annotations

import torch

from smalti.common.randomness import Draws
from smalti.objective.subsampling import subsampling_weights

FREQUENCY = torch.tensor([0.75, 0.24, 0.0099, 0.0001, 0.0])


def test_common_codes_count_less_often_and_more() -> None:
    tokens = torch.multinomial(
        FREQUENCY, 4 * 128 * 128, replacement=True, generator=torch.Generator().manual_seed(0)
    ).view(4, 128, 128)
    weights = subsampling_weights(tokens, FREQUENCY, 0.01, Draws.of(0, "subsampling", range(4)))
    for code, frequency in enumerate(FREQUENCY[:3].tolist()):
        own = weights[tokens == code]
        share = min(1.0, (0.01 / frequency) ** 0.5)
        assert abs(float((own > 0).float().mean()) - share) < 0.02
        torch.testing.assert_close(own[own > 0], torch.full_like(own[own > 0], 1 / share))
    assert (weights[tokens >= 2] == 1).all()


def test_the_expected_loss_stays() -> None:
    """The mean over many draws of a weighted sum is the sum without subsampling."""
    tokens = torch.tensor([[[0, 0, 0, 1], [1, 2, 3, 0]]]).expand(4000, 2, 4)
    losses = torch.arange(8.0).view(2, 4)
    weights = subsampling_weights(tokens, FREQUENCY, 0.05, Draws.of(1, "subsampling", range(4000)))
    assert abs(float((weights * losses).sum(dim=(1, 2)).mean()) - 28) < 0.5


def test_an_image_has_its_own_draws() -> None:
    tokens = torch.zeros(3, 8, 8, dtype=torch.int64)
    together = subsampling_weights(tokens, FREQUENCY, 0.1, Draws.of(2, "subsampling", range(3)))
    alone = subsampling_weights(tokens[:1], FREQUENCY, 0.1, Draws.of(2, "subsampling", range(2, 3)))
    assert torch.equal(together[2:], alone)


def test_a_code_that_never_occurs_is_counted() -> None:
    weights = subsampling_weights(
        torch.full((1, 2, 2), 4), FREQUENCY, 0.01, Draws.of(3, "subsampling", range(1))
    )
    assert (weights == 1).all()
