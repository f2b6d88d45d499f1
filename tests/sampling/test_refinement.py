"""Refinement: the last steps sample rare tokens again, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import generators, tiny_denoiser, tiny_prompts

from smalti.errors import SmaltiError
from smalti.generation.build import make_sampler
from smalti.generation.settings import GenerationSettings
from smalti.sampling.budgets import AdaptiveBudget
from smalti.sampling.orders import RandomOrder
from smalti.sampling.refinement import NoRefinement, RareRefinement, code_frequencies
from smalti.sampling.revision import ThresholdRevision
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.temperatures import LinearTemperature

TEXTS = ["a red circle", "two dogs", "a blue square left of a yellow star"]
SAMPLER = Sampler(steps=8, order=RandomOrder(), refinement=RareRefinement(0.5, 1 / 64))


@pytest.fixture(scope="module")
def denoiser():
    return tiny_denoiser(image_positions="axial", scale=20.0)


def run(denoiser, sampler, texts=TEXTS, seeds=(0, 1, 2), **kwargs):
    return list(
        sample(
            denoiser,
            tiny_prompts(denoiser, texts),
            grid=(4, 4),
            sampler=sampler,
            generators=generators(*seeds),
            **kwargs,
        )
    )


def test_frequencies_are_what_the_model_expects_of_nothing(denoiser):
    prompt = tiny_prompts(denoiser, TEXTS)
    found = code_frequencies(denoiser, prompt, (4, 4))
    masks = torch.full((3, 4, 4), denoiser.config.mask_code)
    with torch.inference_mode():
        hidden = denoiser(masks, prompt.unconditional())
        expected = (hidden @ denoiser.head.T).softmax(dim=-1).mean(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert found.shape == (3, denoiser.config.codebook_size)


def test_common_tokens_stay_and_rare_ones_are_laid_again(denoiser):
    """Up to refinement it is the drawing of so many steps; after it, what was common is still there."""
    steps = run(denoiser, SAMPLER)
    drawn = run(denoiser, replace(SAMPLER, steps=4, refinement=NoRefinement()))[-1].tokens
    frequencies = code_frequencies(denoiser, tiny_prompts(denoiser, TEXTS), (4, 4))
    rare = (frequencies.gather(1, drawn.flatten(1)) < 1 / 64).view(drawn.shape)
    assert 0 < rare.sum() < rare.numel()
    assert len(steps) == 8
    assert torch.equal(steps[3].remasked, rare)
    assert torch.equal(steps[3].tokens, drawn.masked_fill(rare, denoiser.config.mask_code))
    assert torch.equal(steps[-1].tokens[~rare], drawn[~rare])
    assert (steps[-1].tokens < denoiser.config.codebook_size).all()
    assert sum(step.revealed.sum() for step in steps[4:]) == rare.sum()
    assert (steps[-1].tokens != drawn).any()


def test_a_picture_does_not_depend_on_its_batch(denoiser):
    sampler = replace(SAMPLER, revision=ThresholdRevision(0.2), temperature_schedule=LinearTemperature())
    together = run(denoiser, sampler)[-1].tokens
    for index, text in enumerate(TEXTS):
        alone = run(denoiser, sampler, [text], (index,))[-1].tokens
        assert torch.equal(alone[0], together[index])


def test_what_must_stay_stays(denoiser):
    tokens = torch.full((3, 4, 4), denoiser.config.mask_code)
    editable = torch.zeros(3, 4, 4, dtype=torch.bool)
    editable[:, :2] = True
    tokens[:, 2:] = torch.arange(8).view(2, 4)
    steps = run(denoiser, SAMPLER, tokens=tokens, editable=editable)
    assert torch.equal(steps[-1].tokens[:, 2:], tokens[:, 2:])
    assert not steps[3].remasked[:, 2:].any()
    # With nothing to fill there may still be something to refine.
    full = run(denoiser, SAMPLER, tokens=steps[-1].tokens, editable=editable)
    assert (full[-1].tokens < denoiser.config.codebook_size).all()


@pytest.mark.parametrize("frequency", [0.0, 1.0])
def test_nothing_and_everything_may_be_rare(denoiser, frequency):
    steps = run(denoiser, replace(SAMPLER, refinement=RareRefinement(0.5, frequency)))
    assert steps[3].remasked.all() if frequency else not steps[3].remasked.any()
    assert (steps[-1].tokens < denoiser.config.codebook_size).all()


@settings(max_examples=50, deadline=None)
@given(steps=st.integers(1, 64), share=st.floats(0, 1))
def test_parts_add_up_and_one_step_fills(steps, share):
    filling, refining = Sampler(steps=steps, refinement=RareRefinement(share)).parts()
    assert filling >= 1 and refining >= 0 and filling + refining == steps
    assert refining == min(steps - 1, int(share * steps + 1e-9))


def test_settings():
    assert make_sampler(GenerationSettings()).refinement == NoRefinement()
    wanted = GenerationSettings(refinement="rare:share=0.25,frequency=0.01")
    assert make_sampler(wanted).refinement == RareRefinement(0.25, 0.01)
    assert make_sampler(wanted.replaced(budget="adaptive")).refinement == NoRefinement()
    with pytest.raises(SmaltiError, match="budget that is planned"):
        Sampler(budget=AdaptiveBudget(), refinement=RareRefinement())
    with pytest.raises(SmaltiError, match="share"):
        RareRefinement(1.5)
