"""Corruption of training grids: masks by rules, and wrong tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.common.low_discrepancy import halton_order
from smalti.common.randomness import Draws
from smalti.errors import SmaltiError
from smalti.objective.corruption import Corrupted, corrupt
from smalti.objective.masking import (
    MASKINGS,
    BoxMasking,
    Masking,
    MaskingContext,
    Mixture,
    OrderedMasking,
    RareFirstMasking,
    UniformMasking,
    cosine_mask_ratio,
)

V, MASK = 50, 51


def apply(
    tokens: torch.Tensor,
    masking: Masking,
    generator: torch.Generator,
    flip_ratio: float = 0.0,
    frequency: torch.Tensor | None = None,
) -> Corrupted:
    return corrupt(
        tokens,
        masking,
        MaskingContext(frequency),
        codebook_size=V,
        mask_code=MASK,
        flip_ratio=flip_ratio,
        draws=Draws.of(generator.initial_seed(), "test", range(len(tokens))),
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(
    flip=st.floats(0, 1),
    seed=st.integers(0, 2**40),
    side=st.sampled_from([1, 2, 4, 8]),
    rule=st.sampled_from(list(MASKINGS)),
)
def test_corruption_masks_and_flips(flip: float, seed: int, side: int, rule: str) -> None:
    tokens = torch.randint(0, V, (4, side, side), generator=seeded(1))
    masking, frequency = Mixture.parse({rule: 1}), torch.full((V,), 1 / V)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        return apply(tokens, masking, seeded(seed), flip, frequency)

    shown, masked = run()
    assert ((shown == MASK) == masked).all()
    assert masked.flatten(1).any(dim=1).all()
    assert ((shown[~masked] >= 0) & (shown[~masked] < V)).all()
    if flip == 0:
        assert torch.equal(shown[~masked], tokens[~masked])
    if flip == 1 and rule != "ordered":
        assert (shown[~masked] != tokens[~masked]).all()
    assert all(torch.equal(first, second) for first, second in zip((shown, masked), run(), strict=True))


def test_corruption_shares() -> None:
    tokens = torch.randint(0, V, (2000, 8, 8), generator=seeded(1))
    shown, masked = apply(tokens, UniformMasking(), seeded(2), 0.2)
    # The mean of cos(πu/2) over u ~ U(0, 1) is 2/π; rounding up adds half a token of 64.
    assert abs(masked.float().mean() - (2 / torch.pi + 0.5 / 64)) < 0.02
    wrong = (shown != tokens) & ~masked
    assert abs(wrong.sum() / (~masked).sum() - 0.2) < 0.01


def test_mask_ratio_runs_from_all_to_nothing() -> None:
    ratio = cosine_mask_ratio(torch.linspace(0, 1, 11))
    assert ratio[0] == 1 and abs(ratio[-1]) < 1e-6 and (ratio.diff() < 0).all()


def test_a_power_draws_high_mask_ratios_more_often() -> None:
    uniform = torch.linspace(0, 1, 1001)
    # The shares that the docstring names.
    shares = [(cosine_mask_ratio(uniform, power) > 0.95).float().mean() for power in (1, 2, 3)]
    assert [round(float(share), 2) for share in shares] == [0.20, 0.45, 0.59]
    tokens = torch.zeros(500, 8, 8, dtype=torch.int64)
    fewer, more = (
        apply(tokens, UniformMasking(power), seeded(1)).masked.flatten(1).sum(dim=1) for power in (1, 2)
    )
    assert (more >= fewer).all() and more.sum() > fewer.sum()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_rare_codes_can_be_masked_first(seed: int) -> None:
    generator = seeded(seed)
    # Nine of ten tokens are code 0, the others one of 40 rare ones.
    rare = torch.rand(300, 8, 8, generator=generator) < 0.1
    tokens = torch.where(rare, torch.randint(1, 41, rare.shape, generator=generator), 0)
    frequency = torch.bincount(tokens.flatten(), minlength=V) / tokens.numel()
    shown, masked = apply(tokens, RareFirstMasking(), generator, frequency=frequency)
    assert masked.flatten(1).any(dim=1).all() and masked.flatten(1).sum(dim=1).max() <= 32
    assert torch.equal(shown[~masked], tokens[~masked])
    # Where a quarter is masked, hardly a rare code is visible; at random it would be three quarters of them.
    enough = masked.flatten(1).sum(dim=1) >= 16
    assert (rare & ~masked)[enough].sum() < 0.2 * rare[enough].sum()
    # As a share, the other images are masked as ever.
    half = Mixture.parse({"rare_first": 0.5, "uniform": 0.5})
    halved = apply(tokens, half, generator, frequency=frequency).masked.flatten(1).sum(dim=1)
    assert 0.2 < (halved > 32).float().mean() < 0.5
    with pytest.raises(SmaltiError, match="masking 'rare_first' needs the frequency of the codes"):
        apply(tokens, RareFirstMasking(), generator)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9))
def test_what_is_visible_can_be_the_first_of_an_order(seed: int, height: int, width: int) -> None:
    generator = seeded(seed)
    tokens = torch.randint(0, 9, (40, height, width), generator=generator)
    order = halton_order(height, width)
    masked = apply(tokens, OrderedMasking(), generator).masked.flatten(1)[:, list(order)]
    assert masked.any(dim=1).all()
    # In that order all that is visible comes before all that is masked.
    assert torch.equal(masked.sort(dim=1).values, masked)
    # A share of them: the others are masked in other places.
    half = Mixture.parse({"ordered": 0.5, "uniform:power=0.5": 0.5})
    some = apply(tokens, half, generator).masked.flatten(1)[:, list(order)]
    if height * width > 12:
        assert not torch.equal(some.sort(dim=1).values, some)


def test_orders_show_few_tokens_as_often_as_many() -> None:
    tokens = torch.zeros(2000, 16, 16, dtype=torch.int64)
    generator, rule = seeded(0), OrderedMasking("stratified")
    visible = 256 - apply(tokens, rule, generator).masked.flatten(1).sum(dim=1)
    # P(visible < k) = log(k + 1) / log(257)
    for k in (1, 4, 16, 64):
        assert abs((visible < k).float().mean() - math.log(k + 1) / math.log(257)) < 0.04
    # Wrong tokens are as frequent as tokens are visible: where few are, there are hardly any.
    tokens = tokens.repeat(8, 1, 1)
    shown, masked = apply(tokens, rule, generator, 0.5)
    wrong = ((shown != tokens) & ~masked).flatten(1).sum(dim=1)
    visible = 256 - masked.flatten(1).sum(dim=1)
    assert wrong[visible < 4].float().mean() < 0.02
    for low, high in ((16, 64), (64, 200), (200, 256)):
        part = (visible >= low) & (visible < high)
        expected = (0.5 * visible[part].float() ** 2 / 256).sum()
        assert 0.9 < wrong[part].sum() / expected < 1.1


def is_box(masked: torch.Tensor) -> bool:
    return torch.equal(masked, masked.any(dim=1)[:, None] & masked.any(dim=0))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9))
def test_what_is_masked_can_be_a_box(seed: int, height: int, width: int) -> None:
    generator = seeded(seed)
    tokens = torch.randint(0, 9, (40, height, width), generator=generator)
    for one in apply(tokens, BoxMasking(), generator).masked:
        assert is_box(one) and one.any()
        for line in (one.any(dim=1), one.any(dim=0)):
            first, last = line.nonzero()[[0, -1], 0]
            assert bool(line[first : last + 1].all())
            assert 1 <= int(line.sum()) <= max(1, len(line) // 2)


def test_every_image_gets_one_rule_by_the_shares_with_the_flips_of_that_rule() -> None:
    tokens = torch.randint(0, V, (4000, 8, 8), generator=seeded(1))
    order = list(halton_order(8, 8))
    mixture = Mixture.parse({"ordered": 0.7, "box": 0.3})
    masked, flip_scale = mixture.mask(tokens, MaskingContext(), Draws.of(2, "test", range(4000)))
    in_order = masked.flatten(1)[:, order]
    ordered = (in_order.sort(dim=1).values == in_order).all(dim=1)
    boxes = torch.tensor([is_box(one) for one in masked])
    assert (ordered | boxes).all()
    assert abs(ordered.float().mean() - 0.7) < 0.03
    visible = (~masked).flatten(1).float().mean(dim=1)
    torch.testing.assert_close(flip_scale[~boxes], visible[~boxes])
    assert (flip_scale[~ordered] == 1).all()


def test_a_rule_from_elsewhere_needs_only_an_entry_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class RowMasking:
        row: int = 0

        def check(self, height: int, width: int) -> None:
            """Accept any grid."""

        def mask(self, tokens: torch.Tensor, context: MaskingContext, draws: Draws) -> Any:
            masked = torch.zeros(tokens.shape, dtype=torch.bool)
            masked[:, self.row] = True
            return masked, torch.ones(len(tokens))

    monkeypatch.setitem(MASKINGS, "row", RowMasking)
    masked = apply(torch.zeros(3, 4, 4, dtype=torch.int64), Mixture.parse({"row:2": 1}), seeded(0)).masked
    assert masked[:, 2].all() and masked.sum() == 12


@pytest.mark.parametrize("shares", [{}, {"uniform": 0.5}, {"uniform": 0.7, "box": 0.4}])
def test_shares_must_add_up_to_one(shares: dict[str, float]) -> None:
    with pytest.raises(SmaltiError, match="masking shares must add up to 1, not"):
        Mixture.parse(shares)
    assert Mixture.parse({"uniform": 0.1, "box": 0.2, "rare_first": 0.7}).sampling_order(4, 4) == ()


def test_a_stratified_order_needs_its_grid() -> None:
    mixture = Mixture.parse({"ordered:stratified": 0.5, "box": 0.5})
    mixture.check(8, 8)
    with pytest.raises(SmaltiError, match="square grid whose side is a power of two, not 8×12"):
        mixture.check(8, 12)
