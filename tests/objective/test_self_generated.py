"""Self-generated inputs of denoiser training."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import generators, tiny_denoiser, tiny_prompts

from smalti.common.randomness import Draws
from smalti.objective.corruption import Corrupted
from smalti.objective.self_generated import fill_with_samples


def streams(count: int, seed: int) -> Draws:
    return Draws.of(seed, "self_generated", range(count))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), passes=st.integers(1, 3), share=st.sampled_from([0.3, 1.0]))
def test_self_generated_tokens_fill_masks_of_some_grids_only(seed: int, passes: int, share: float) -> None:
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, ["a", "b", "two words", "d"])
    mask = denoiser.config.mask_code
    tokens = torch.randint(0, denoiser.config.codebook_size, (4, 4, 4), generator=generators(1)[0])
    masked = torch.rand(4, 4, 4, generator=generators(2)[0]) < 0.7
    before = Corrupted(tokens.masked_fill(masked, mask), masked)

    def run() -> Corrupted:
        return fill_with_samples(
            denoiser,
            before,
            prompt,
            share=share,
            passes=passes,
            draws=streams(4, seed),
        )

    after = run()
    assert not (after.masked & ~masked).any()
    filled = masked & ~after.masked
    assert ((after.tokens == mask) == after.masked).all()
    assert torch.equal(after.tokens[~filled], before.tokens[~filled])
    assert ((after.tokens[filled] >= 0) & (after.tokens[filled] < denoiser.config.codebook_size)).all()
    assert torch.equal(after.tokens, run().tokens)
    assert torch.equal(before.masked, masked)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), passes=st.integers(1, 3))
def test_self_generated_tokens_follow_the_order_by_no_more_than_is_visible(seed: int, passes: int) -> None:
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, ["a"] * 5)
    order = torch.randperm(16, generator=generators(4)[0])
    visible = torch.tensor([0, 1, 5, 12, 15])
    masked = torch.ones(5, 16, dtype=torch.bool)
    for row, number in zip(masked, visible, strict=True):
        row[order[:number]] = False
    masked = masked.view(5, 4, 4)
    tokens = torch.zeros(5, 4, 4, dtype=torch.long).masked_fill(masked, denoiser.config.mask_code)
    after = fill_with_samples(
        denoiser,
        Corrupted(tokens, masked),
        prompt,
        share=1.0,
        passes=passes,
        order=order.tolist(),
        draws=streams(5, seed),
    )
    still = after.masked.flatten(1)[:, order]
    assert torch.equal(still.sort(dim=1).values, still)  # what is visible still comes first
    filled = (~still).sum(dim=1) - visible
    assert (
        filled[0] == 0
        and (filled >= 0).all()
        and (filled <= visible.clamp(max=4).where(visible > 8, visible)).all()
    )


def test_self_generated_tokens_fill_a_share_that_is_uniform() -> None:
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, ["a"] * 400)
    mask = denoiser.config.mask_code
    unknown = Corrupted(torch.full((400, 4, 4), mask), torch.ones(400, 4, 4, dtype=torch.bool))
    after = fill_with_samples(denoiser, unknown, prompt, share=0.5, passes=1, draws=streams(400, 3))
    share = (~after.masked).float().mean(dim=(1, 2))
    assert abs(float((share > 0).float().mean()) - 0.5) < 0.1  # about half the grids
    assert abs(float(share.mean()) - 0.25) < 0.05  # and half of their masks
    assert float(share.max()) > 0.9
