"""Corruption and loss of denoiser training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import generators, tiny_denoiser, tiny_prompts

from smalti.common.low_discrepancy import halton_order
from smalti.objective.corruption import Corrupted, corrupt, cosine_mask_ratio
from smalti.objective.drafts import draft
from smalti.objective.loss import denoising_loss

V, MASK = 50, 51


@settings(max_examples=30, deadline=None)
@given(flip=st.floats(0, 1), seed=st.integers(0, 2**40), side=st.integers(1, 8))
def test_corruption_masks_and_flips(flip: float, seed: int, side: int) -> None:
    tokens = torch.randint(0, V, (4, side, side), generator=torch.Generator().manual_seed(1))

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return corrupt(tokens, codebook_size=V, mask_code=MASK, flip_ratio=flip, generator=generator)

    shown, masked = run()
    assert ((shown == MASK) == masked).all()
    assert masked.flatten(1).any(dim=1).all()
    assert ((shown[~masked] >= 0) & (shown[~masked] < V)).all()
    if flip == 0:
        assert torch.equal(shown[~masked], tokens[~masked])
    if flip == 1:
        assert (shown[~masked] != tokens[~masked]).all()
    assert all(torch.equal(first, second) for first, second in zip((shown, masked), run(), strict=True))


def test_corruption_shares() -> None:
    tokens = torch.randint(0, V, (2000, 8, 8), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    shown, masked = corrupt(tokens, codebook_size=V, mask_code=MASK, flip_ratio=0.2, generator=generator)
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
    corrupted = [
        corrupt(
            tokens,
            codebook_size=V,
            mask_code=MASK,
            flip_ratio=0,
            mask_power=power,
            generator=torch.Generator().manual_seed(1),
        )
        for power in (1, 2)
    ]
    fewer, more = (one.masked.flatten(1).sum(dim=1) for one in corrupted)
    assert (more >= fewer).all() and more.sum() > fewer.sum()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_rare_codes_can_be_masked_first(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Nine of ten tokens are code 0, the others one of 40 rare ones.
    rare = torch.rand(300, 8, 8, generator=generator) < 0.1
    tokens = torch.where(rare, torch.randint(1, 41, rare.shape, generator=generator), 0)
    frequency = torch.bincount(tokens.flatten(), minlength=V) / tokens.numel()
    kwargs = dict(codebook_size=V, mask_code=MASK, flip_ratio=0, frequency=frequency)
    shown, masked = corrupt(tokens, rare_first=1.0, generator=generator, **kwargs)
    assert masked.flatten(1).any(dim=1).all() and masked.flatten(1).sum(dim=1).max() <= 32
    assert torch.equal(shown[~masked], tokens[~masked])
    # Where a quarter is masked, hardly a rare code is in sight; at random it would be three quarters of them.
    enough = masked.flatten(1).sum(dim=1) >= 16
    assert (rare & ~masked)[enough].sum() < 0.2 * rare[enough].sum()
    # As a share, the other pictures are masked as ever.
    halved = corrupt(tokens, rare_first=0.5, generator=generator, **kwargs).masked.flatten(1).sum(dim=1)
    assert 0.2 < (halved > 32).float().mean() < 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9))
def test_what_is_visible_can_be_the_first_of_an_order(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 9, (40, height, width), generator=generator)
    kwargs = {"codebook_size": 9, "mask_code": 9, "flip_ratio": 0.0, "generator": generator}
    order = halton_order(height, width)
    masked = corrupt(tokens, ordered=1.0, order=order, **kwargs).masked.flatten(1)[:, list(order)]
    assert masked.any(dim=1).all()
    # In that order all that is visible comes before all that is masked.
    assert torch.equal(masked.sort(dim=1).values, masked)
    # A share of them: the others are masked in other places.
    some = corrupt(tokens, ordered=0.5, order=order, mask_power=0.5, **kwargs).masked.flatten(1)[
        :, list(order)
    ]
    if height * width > 12:
        assert not torch.equal(some.sort(dim=1).values, some)


def test_orders_show_few_tokens_as_often_as_many() -> None:
    tokens = torch.zeros(2000, 16, 16, dtype=torch.int64)
    kwargs = {"codebook_size": 9, "mask_code": 9, "flip_ratio": 0.0}
    generator = torch.Generator().manual_seed(0)
    masked = corrupt(tokens, ordered=1.0, order=range(256), generator=generator, **kwargs).masked
    visible = 256 - masked.flatten(1).sum(dim=1)
    # P(visible < k) = log(k + 1) / log(257)
    for k in (1, 4, 16, 64):
        assert abs((visible < k).float().mean() - math.log(k + 1) / math.log(257)) < 0.04
    # Wrong tokens come with what is in sight: where little is, there are hardly any.
    flips, tokens = dict(kwargs, flip_ratio=0.5), tokens.repeat(8, 1, 1)
    shown, masked = corrupt(tokens, ordered=1.0, order=range(256), generator=generator, **flips)
    wrong = ((shown != tokens) & ~masked).flatten(1).sum(dim=1)
    visible = 256 - masked.flatten(1).sum(dim=1)
    assert wrong[visible < 4].float().mean() < 0.02
    for low, high in ((16, 64), (64, 200), (200, 256)):
        part = (visible >= low) & (visible < high)
        expected = (0.5 * visible[part].float() ** 2 / 256).sum()
        assert 0.9 < wrong[part].sum() / expected < 1.1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9))
def test_what_is_masked_can_be_a_box(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 9, (40, height, width), generator=generator)
    kwargs = {"codebook_size": 9, "mask_code": 9, "flip_ratio": 0.0, "generator": generator}
    masked = corrupt(tokens, boxes=1.0, **kwargs).masked
    for one in masked:
        rows, columns = one.any(dim=1), one.any(dim=0)
        assert torch.equal(one, rows[:, None] & columns) and one.any()
        for line in (rows, columns):
            first, last = line.nonzero()[[0, -1], 0]
            assert bool(line[first : last + 1].all())
            assert 1 <= int(line.sum()) <= max(1, len(line) // 2)


def test_loss_weighs_visible_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(2, 4, 8, generator=generator), torch.randn(V, 8, generator=generator)
    targets = torch.randint(0, V, (2, 2, 2), generator=generator)
    masked = torch.tensor([[[True, False], [True, True]], [[False, False], [True, False]]])
    rows = F.cross_entropy(hidden.flatten(0, 1) @ head.T, targets.flatten(), reduction="none").reshape(
        2, 2, 2
    )
    loss = denoising_loss(hidden, head, targets, masked, edit_loss_weight=0.25)
    expected = (rows[masked].sum() + 0.25 * rows[~masked].sum()) / (4 + 0.25 * 4)
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.masked, rows[masked].mean())
    torch.testing.assert_close(loss.visible, rows[~masked].mean())
    alone = denoising_loss(hidden, head, targets, masked, edit_loss_weight=0.0)
    torch.testing.assert_close(alone.total, rows[masked].mean())


def test_groups_join_the_loss_and_are_logged_apart() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, head = torch.randn(1, 4, 8, generator=generator), torch.randn(V, 8, generator=generator)
    targets = torch.randint(0, V, (1, 2, 2), generator=generator)
    masked = torch.tensor([[[True, False], [True, True]]])
    halves = torch.arange(V) % 2
    p = (hidden.flatten(0, 1) @ head.T).softmax(dim=1)
    token = -p.gather(1, targets.flatten()[:, None]).log()[:, 0]
    same = halves == halves[targets.flatten()][:, None]
    group = -(p * same).sum(dim=1).log()
    rows = masked.flatten()
    loss = denoising_loss(
        hidden, head, targets, masked, edit_loss_weight=0.0, groups=[halves], group_weights=[0.5]
    )
    torch.testing.assert_close(loss.total, (token + 0.5 * group)[rows].mean())
    torch.testing.assert_close(loss.masked, token[rows].mean())
    torch.testing.assert_close(loss.group, group[rows].mean()[None])
    hit = same.gather(1, p.argmax(dim=1)[:, None])[:, 0]
    torch.testing.assert_close(loss.group_accuracy, hit[rows].float().mean()[None])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), passes=st.integers(1, 3), share=st.sampled_from([0.3, 1.0]))
def test_drafts_fill_masks_of_some_grids_only(seed: int, passes: int, share: float) -> None:
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, ["a", "b", "two words", "d"])
    mask = denoiser.config.mask_code
    tokens = torch.randint(0, denoiser.config.codebook_size, (4, 4, 4), generator=generators(1)[0])
    masked = torch.rand(4, 4, 4, generator=generators(2)[0]) < 0.7
    before = Corrupted(tokens.masked_fill(masked, mask), masked)

    def run() -> Corrupted:
        return draft(
            denoiser,
            before,
            prompt,
            share=share,
            passes=passes,
            generator=torch.Generator().manual_seed(seed),
        )

    after = run()
    assert not (after.masked & ~masked).any()
    laid = masked & ~after.masked
    assert ((after.tokens == mask) == after.masked).all()
    assert torch.equal(after.tokens[~laid], before.tokens[~laid])
    assert ((after.tokens[laid] >= 0) & (after.tokens[laid] < denoiser.config.codebook_size)).all()
    assert torch.equal(after.tokens, run().tokens)
    assert torch.equal(before.masked, masked)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), passes=st.integers(1, 3))
def test_drafts_go_on_in_the_order_by_no_more_than_is_visible(seed: int, passes: int) -> None:
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, ["a"] * 5)
    order = torch.randperm(16, generator=generators(4)[0])
    visible = torch.tensor([0, 1, 5, 12, 15])
    masked = torch.ones(5, 16, dtype=torch.bool)
    for row, number in zip(masked, visible, strict=True):
        row[order[:number]] = False
    masked = masked.view(5, 4, 4)
    tokens = torch.zeros(5, 4, 4, dtype=torch.long).masked_fill(masked, denoiser.config.mask_code)
    after = draft(
        denoiser,
        Corrupted(tokens, masked),
        prompt,
        share=1.0,
        passes=passes,
        order=order.tolist(),
        generator=torch.Generator().manual_seed(seed),
    )
    still = after.masked.flatten(1)[:, order]
    assert torch.equal(still.sort(dim=1).values, still)  # what is visible still comes first
    laid = (~still).sum(dim=1) - visible
    assert (
        laid[0] == 0
        and (laid >= 0).all()
        and (laid <= visible.clamp(max=4).where(visible > 8, visible)).all()
    )


def test_drafts_fill_a_share_that_is_uniform() -> None:
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, ["a"] * 400)
    mask = denoiser.config.mask_code
    unknown = Corrupted(torch.full((400, 4, 4), mask), torch.ones(400, 4, 4, dtype=torch.bool))
    after = draft(denoiser, unknown, prompt, share=0.5, passes=1, generator=generators(3)[0])
    filled = (~after.masked).float().mean(dim=(1, 2))
    assert abs(float((filled > 0).float().mean()) - 0.5) < 0.1  # about half the grids
    assert abs(float(filled.mean()) - 0.25) < 0.05  # and half of their masks
    assert float(filled.max()) > 0.9
