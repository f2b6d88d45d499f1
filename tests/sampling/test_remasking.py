"""Rules that mask again: path planning, token to mask with caps, remasking by chance; and rising guidance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import TEXTS, generators, tiny_denoiser, tiny_prompts

from smalti.common.rules import parse_rule
from smalti.errors import SmaltiError
from smalti.generation.build import make_sampler
from smalti.generation.effects import without_effect
from smalti.generation.settings import GenerationSettings
from smalti.sampling.guidance import (
    GUIDANCE_SCHEDULES,
    ConstantGuidance,
    CosineGuidance,
    Guidance,
    RisingGuidance,
)
from smalti.sampling.orders import HaltonOrder
from smalti.sampling.revision import (
    REVISIONS,
    CappedTokenToMaskRevision,
    PathPlanningRevision,
    RunningConfidenceRevision,
    ScheduledRemaskingRevision,
)
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.view import StepView

SIDE = (6, 6)
RULES = [
    PathPlanningRevision(),
    CappedTokenToMaskRevision(0.8, 0.3, 2),
    ScheduledRemaskingRevision(0.5),
    ScheduledRemaskingRevision(0.5, "cap", 0.2, 0.9),
]


@pytest.fixture(scope="module")
def denoiser():
    return tiny_denoiser(image_positions="axial", scale=6.0)


def run(denoiser, sampler, count=1, first=0):
    prompt = tiny_prompts(denoiser, TEXTS[first : first + count], SIDE)
    seeds = generators(*range(first, first + count))
    return list(sample(denoiser, prompt, grid=SIDE, sampler=sampler, generators=seeds))


def view_of(visible, **changes):
    """A view of one step of one image; what is not visible is masked."""
    zeros, visible = torch.zeros(1, len(visible)), torch.tensor([visible]).bool()
    fields = dict(
        index=1,
        steps=4,
        grid=(1, visible.shape[1]),
        masked=~visible,
        visible=visible,
        tokens=zeros.long(),
        candidate=zeros.long(),
        probability=zeros,
        current_probability=zeros,
        entropy=zeros,
        noise=None,
        confidence=zeros,
        remaining=torch.tensor([visible.shape[1]]),
        remaskings=zeros.long(),
    )
    given = {k: torch.tensor([v]) if isinstance(v, list) else v for k, v in changes.items()}
    return StepView(**{**fields, **given})


class TestLoop:
    @pytest.mark.parametrize("rule", RULES, ids=str)
    def test_what_is_masked_again_is_filled_again(self, denoiser, rule):
        sampler = Sampler(steps=6, order=HaltonOrder(), revision=rule)
        taken = run(denoiser, sampler, count=3)
        revealed, remasked = (
            sum(getattr(step, name).long() for step in taken) for name in ("revealed", "remasked")
        )
        assert torch.equal(revealed, remasked + 1)
        assert int(remasked.sum()) > 0 and not bool(taken[-1].remasked.any())
        alone = run(denoiser, sampler, first=2)
        assert torch.equal(alone[-1].tokens[0], taken[-1].tokens[2])

    def test_caps_hold(self, denoiser):
        rule = CappedTokenToMaskRevision(1.0, 1.0, times=1, rest=3)
        taken = run(denoiser, Sampler(steps=8, revision=rule), count=2)
        times = sum(step.remasked.long() for step in taken)
        assert int(times.max()) == 1
        assert not any(bool(step.remasked.any()) for step in taken[-3:])

    def test_tokens_of_the_start_stay_where_chance_remasks(self, denoiser):
        tokens = torch.full((1, *SIDE), denoiser.config.mask_code)
        tokens[0, :2] = 5
        prompt = tiny_prompts(denoiser, TEXTS[:1], SIDE)
        sampler = Sampler(steps=6, revision=ScheduledRemaskingRevision(1.0, "cap"))
        taken = list(
            sample(denoiser, prompt, grid=SIDE, sampler=sampler, generators=generators(0), tokens=tokens)
        )
        assert bool((taken[-1].tokens[0, :2] == 5).all())
        assert any(bool(step.remasked.any()) for step in taken)


class TestRules:
    def test_path_planning_is_a_competition(self):
        """Three of five stay visible: the two least sure of what is there and what may come do not."""
        view = view_of(
            [1, 1, 1, 0, 0],
            current_probability=[0.9, 0.2, 0.6, 0.0, 0.0],
            probability=[1.0, 1.0, 1.0, 0.7, 0.1],
            remaining=torch.tensor([2]),
        )
        assert PathPlanningRevision().remasks(view)[0].tolist() == [False, True, False, False, False]
        assert not bool(PathPlanningRevision(0.0).remasks(view).any())
        as_confidence = replace(view, confidence=view.current_probability)
        assert torch.equal(
            PathPlanningRevision().remasks(view), RunningConfidenceRevision().remasks(as_confidence)
        )

    def test_the_cap_is_a_quantile_of_the_candidates(self):
        view = view_of(
            [1, 1, 1, 0, 0, 0],
            current_probability=[0.5, 0.3, 0.1, 0.0, 0.0, 0.0],
            probability=[1.0, 1.0, 1.0, 0.2, 0.4, 0.9],
        )

        def remasked(rule, view=view):
            return rule.remasks(view)[0].nonzero()[:, 0].tolist()

        assert remasked(CappedTokenToMaskRevision(0.0, 1.0)) == [2]
        assert remasked(CappedTokenToMaskRevision(0.5, 1.0)) == [1, 2]
        assert remasked(CappedTokenToMaskRevision(1.0, 1.0)) == [0, 1, 2]
        assert remasked(CappedTokenToMaskRevision(1.0, 0.4)) == [1, 2]
        again = replace(view, remaskings=torch.tensor([[0, 0, 1, 0, 0, 0]]))
        assert remasked(CappedTokenToMaskRevision(1.0, 1.0), again) == [0, 1]
        assert remasked(CappedTokenToMaskRevision(1.0, 1.0, rest=3)) == []

    @pytest.mark.parametrize("variant", ["cap", "rescale", "confidence"])
    def test_the_chance_is_the_papers(self, variant):
        """Of 900 visible tokens at eta 0.2, with 450 masked after the step: 0.2 or 0.2 · 450 / 900."""
        n, eta = 1000, 0.2
        visible = [1] * 900 + [0] * 100
        noise = torch.rand(1, n, generator=torch.Generator().manual_seed(0))
        view = view_of(visible, confidence=[0.9] * 450 + [0.1] * 450 + [0.0] * 100, noise=noise)
        view = replace(view, remaining=torch.tensor([450]))
        found = ScheduledRemaskingRevision(eta, variant).remasks(view)
        chance = eta if variant == "cap" else eta * 450 / 900
        assert abs(int(found.sum()) - 900 * chance) < 35
        sure, unsure = int(found[0, :450].sum()), int(found[0, 450:].sum())
        assert (unsure > 1.5 * sure) == (variant == "confidence")
        outside = ScheduledRemaskingRevision(eta, variant, start=0.5).remasks(view)
        assert not bool(outside.any())


@pytest.mark.parametrize(
    "text",
    [
        "path_planning:eta=-1",
        "capped_token_to_mask:quantile=1.1",
        "capped_token_to_mask:share=0",
        "capped_token_to_mask:times=0",
        "remdm:eta=2",
        "remdm:variant=other",
        "remdm:start=0.5,end=0.2",
    ],
)
def test_wrong_revisions(text):
    with pytest.raises(SmaltiError, match="revision"):
        parse_rule("revision", text, REVISIONS)


class TestGuidance:
    def test_factors(self):
        def factors(schedule):
            return [round(Guidance(2.0, schedule=schedule).at(index, 4), 3) for index in range(4)]

        assert factors(ConstantGuidance()) == [2, 2, 2, 2]
        assert factors(RisingGuidance()) == [0.5, 1, 1.5, 2]
        assert factors(RisingGuidance(0.5, 2.0)) == [1.062, 1.25, 1.562, 2]
        assert factors(CosineGuidance()) == [0.293, 1, 1.707, 2]
        assert Guidance(2.0, (0.0, 0.5), RisingGuidance()).at(3, 4) == 0

    def test_a_setting(self):
        settings = GenerationSettings(guidance_scale=2.0, guidance_schedule="rising:power=2")
        assert make_sampler(settings).guidance.schedule == RisingGuidance(power=2.0)
        idle = settings.replaced(guidance_scale=0.0)
        assert without_effect(idle, ["guidance_schedule"]) == [
            ("guidance_schedule", "with {guidance_scale} 0")
        ]
        with pytest.raises(SmaltiError, match="power must be"):
            parse_rule("guidance_schedule", "rising:power=0", GUIDANCE_SCHEDULES)

    def test_the_last_step_is_guided_in_full(self, denoiser):
        """One step at the end of the schedule is that of constant guidance."""
        ours, plain = (
            run(denoiser, Sampler(steps=1, guidance=Guidance(2.0, schedule=schedule)))
            for schedule in (RisingGuidance(), ConstantGuidance())
        )
        assert torch.equal(ours[0].tokens, plain[0].tokens)
