"""A second model that says which candidates to accept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import TEXTS, generators, tiny_denoiser, tiny_prompts

from smalti.errors import SmaltiError
from smalti.sampling.budgets import VerifiedBudget
from smalti.sampling.guidance import Guidance
from smalti.sampling.orders import HistoryOrder
from smalti.sampling.reuse import CellReuse
from smalti.sampling.revision import ThresholdRevision
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.verifier import Verifier
from smalti.sampling.view import StepView

BUDGET = VerifiedBudget(0.001, ceiling=0.5)


def run(sampler, texts=TEXTS[:2], seeds=(0, 1), small=None, **options):
    denoiser = tiny_denoiser()
    small = (
        tiny_denoiser(seed=1, num_hidden_layers=1, hidden_size=16, downsample=False)
        if small is None
        else small
    )
    prompt = tiny_prompts(denoiser, list(texts))
    verifier = Verifier(small, tiny_prompts(small, list(texts)))
    return list(
        sample(
            denoiser,
            prompt,
            grid=(4, 4),
            sampler=sampler,
            generators=generators(*seeds),
            verifier=verifier,
            **options,
        )
    )


def view(agreement, probability=None):
    masked = torch.tensor([[True, True, True, True, False]])
    zeros = torch.zeros(1, 5)
    return StepView(
        index=0,
        steps=4,
        grid=(1, 5),
        masked=masked,
        visible=~masked,
        tokens=torch.full((1, 5), 64),
        candidate=torch.tensor([[3, 5, 7, 9, 0]]),
        probability=zeros if probability is None else torch.tensor([probability]),
        current_probability=zeros,
        entropy=zeros,
        noise=None,
        confidence=zeros,
        remaining=torch.tensor([3]),
        agreement=None if agreement is None else torch.tensor([agreement]),
    )


class TestBudget:
    def test_it_accepts_what_the_second_model_finds_probable_enough(self):
        rule = VerifiedBudget(0.5, ceiling=1.0)
        seen = view([0.5, 0.4, 1.0, 0.9, 1.0])
        assert rule.first(seen).tolist() == [[True, False, True, True, False]]
        assert rule.remaining(seen).tolist() == [1]

    def test_a_prefix_ends_at_the_first_that_is_rejected(self):
        rule = VerifiedBudget(0.5, ceiling=1.0, prefix=True)
        agreement = [0.9, 0.1, 0.9, 0.9, 1.0]
        assert rule.first(view(agreement, [0.4, 0.3, 0.9, 0.2, 0])).tolist() == [
            [True, False, True, False, False]
        ]
        assert rule.first(view([0.9] * 5, [0.4, 0.3, 0.9, 0.2, 0])).sum() == 4

    def test_the_floor_the_ceiling_and_the_plan_hold(self):
        assert VerifiedBudget(0.5, ceiling=0.4).remaining(view([1.0] * 5)).tolist() == [2]
        assert VerifiedBudget(0.5, floor=0.4, ceiling=0.4).remaining(view([0.0] * 5)).tolist() == [2]
        assert VerifiedBudget(0.5).remaining(view(None)).tolist() == [3]

    @pytest.mark.parametrize("values", [dict(agreement=2), dict(floor=-1), dict(floor=0.5, ceiling=0.2)])
    def test_wrong_values_are_named(self, values):
        with pytest.raises(SmaltiError, match=list(values)[-1]):
            VerifiedBudget(**values)


def test_agreement_is_the_share_of_the_largest_probability():
    small = tiny_denoiser(seed=1)
    prompt = tiny_prompts(small, TEXTS[:2])
    masked = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)) < 0.6
    tokens, candidate = torch.randint(0, 64, (2, 2, 16), generator=torch.Generator().manual_seed(1))
    seen = view(None)
    seen = replace(seen, grid=(4, 4), masked=masked, tokens=tokens, candidate=candidate)
    judged = Verifier(small, prompt).judge(seen, torch.tensor([True, False])).agreement
    filled = torch.where(masked, candidate, tokens)[:1].view(1, 4, 4)
    with torch.no_grad():
        p = (small(filled, prompt.select([0])) @ small.head.T).softmax(dim=-1)[0]
    expected = p.gather(1, filled.flatten()[:, None])[:, 0] / p.amax(dim=1)
    torch.testing.assert_close(judged[0], expected * masked[0], rtol=1e-4, atol=1e-6)
    assert not bool(judged[1].any())


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(steps=8, budget=BUDGET),
        Sampler(steps=8, budget=BUDGET, guidance=Guidance(2.0), revision=ThresholdRevision(0.02)),
        Sampler(steps=8, budget=BUDGET, order=HistoryOrder(2), reuse=CellReuse(3, 0.0)),
    ],
    ids=str,
)
class TestLoop:
    def test_the_grid_is_filled_in_fewer_steps(self, sampler):
        steps = run(sampler)
        assert bool((steps[-1].tokens < 64).all())
        assert len(steps) < 8  # the plan takes 8

    def test_an_image_does_not_depend_on_its_batch(self, sampler):
        together = run(sampler)[-1].tokens
        for image in range(2):
            alone = run(sampler, TEXTS[image : image + 1], (image,))[-1].tokens
            assert torch.equal(alone[0], together[image])


class Always(Verifier):
    """A second model that finds every candidate as probable as its first choice, or not at all."""

    def __init__(self, agreement):
        self.agreement = agreement

    def judge(self, view, active):
        return replace(view, agreement=torch.full(view.masked.shape, self.agreement))


@pytest.mark.parametrize(("agreement", "steps"), [(0.0, 8), (1.0, 4)])
def test_what_a_second_model_says_decides_the_steps(agreement, steps):
    """Rejecting all leaves the plan; accepting all reveals the ceiling at every step, a quarter of the grid."""
    sampler = Sampler(steps=8, budget=VerifiedBudget())
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, TEXTS[:1])
    taken = list(
        sample(
            denoiser,
            prompt,
            grid=(4, 4),
            sampler=sampler,
            generators=generators(0),
            verifier=Always(agreement),
        )
    )
    assert len(taken) == steps


def test_it_is_needed():
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, TEXTS[:1])
    with pytest.raises(SmaltiError, match="second model"):
        sample(denoiser, prompt, grid=(4, 4), sampler=Sampler(budget=BUDGET), generators=generators(0))
