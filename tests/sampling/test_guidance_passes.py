"""Steps that leave the unconditional pass out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import TEXTS, generators, tiny_denoiser, tiny_prompts

from smalti.common.rules import parse_rule
from smalti.errors import SmaltiError
from smalti.sampling.guidance import Guidance
from smalti.sampling.guidance_passes import GUIDANCE_PASSES, AllPasses, SkippedPasses
from smalti.sampling.sampler import Sampler, sample


@pytest.fixture(scope="module")
def denoiser():
    return tiny_denoiser()


def test_an_interval_and_its_kth_steps():
    rule = SkippedPasses(every=3, start=0.25, end=0.75)
    assert [index for index in range(12) if not rule.computes(index, 12)] == [4, 5, 7, 8]


def test_the_difference_is_the_last_or_a_line():
    past = [(4, torch.tensor([3.0])), (2, torch.tensor([1.0]))]
    assert SkippedPasses(order=0).difference(past, 5).tolist() == [3.0]
    assert SkippedPasses(order=1).difference(past, 5).tolist() == [4.0]
    assert SkippedPasses(order=1).difference(past[:1], 5).tolist() == [3.0]


@pytest.mark.parametrize("batched", [True, False])
def test_fewer_prompts_pass_and_computing_all_is_exact(denoiser, batched):
    counts = []
    hook = denoiser.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[1])))
    sampler = Sampler(steps=6, guidance=Guidance(2.0), argmax=True, guidance_batched=batched)

    def tokens(rule):
        counts.clear()
        prompt = tiny_prompts(denoiser, TEXTS[:1])
        steps = sample(
            denoiser,
            prompt,
            grid=(4, 4),
            sampler=replace(sampler, guidance_passes=rule),
            generators=generators(0),
        )
        return list(steps)[-1].tokens

    exact = tokens(AllPasses())
    assert sum(counts) == 12
    assert torch.equal(tokens(SkippedPasses(every=1)), exact)
    tokens(SkippedPasses(every=2, start=0, order=1))
    assert sum(counts) == 9
    tokens(SkippedPasses(every=6, start=0))
    assert sum(counts) == 7
    hook.remove()


def test_without_guidance_nothing_is_skipped(denoiser):
    prompt = tiny_prompts(denoiser, TEXTS[:1])
    plain, skipping = (
        list(
            sample(
                denoiser,
                prompt,
                grid=(4, 4),
                sampler=Sampler(steps=4, guidance_passes=rule),
                generators=generators(0),
            )
        )
        for rule in (AllPasses(), SkippedPasses())
    )
    assert torch.equal(plain[-1].tokens, skipping[-1].tokens)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("skip:0", "every"),
        ("skip:start=0.5,end=0.2", "end"),
        ("skip:order=2", "order"),
        ("skip:order=0.5", "order"),
    ],
)
def test_a_wrong_parameter_is_named(text, wrong):
    with pytest.raises(SmaltiError, match=wrong):
        parse_rule("guidance_passes", text, GUIDANCE_PASSES)
