"""Schedules, orders, editing, guidance and the loop."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GRID, TEXTS, generators, tiny_denoiser, tiny_prompts

from smalti.common.low_discrepancy import halton_order, stratified_order
from smalti.errors import SmaltiError
from smalti.model.prompt import PromptBatch
from smalti.ops.sample import sample_tokens
from smalti.sampling.budgets import CosineBudget, LinearBudget, ShiftBudget
from smalti.sampling.guidance import Guidance
from smalti.sampling.orders import ConfidenceOrder, DrawOrder, HaltonOrder, RandomOrder, StratifiedOrder
from smalti.sampling.predictor import Draw
from smalti.sampling.refinement import RareRefinement
from smalti.sampling.reuse import CellReuse, NoReuse, PromptReuse
from smalti.sampling.revision import NoRevision, ThresholdRevision
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.temperatures import (
    ConstantTemperature,
    CosineTemperature,
    ExponentialTemperature,
    LinearTemperature,
    ShiftTemperature,
)
from smalti.sampling.view import StepView

ORDERS = [
    ConfidenceOrder(),
    ConfidenceOrder(2.0, "linear"),
    DrawOrder(0.1),
    StratifiedOrder(),
    HaltonOrder(),
    RandomOrder(),
]


@pytest.fixture(scope="module")
def denoiser():
    return tiny_denoiser()


def run(denoiser, sampler, texts=TEXTS[:1], seeds=(0,), grid=GRID, **options):
    prompt = tiny_prompts(denoiser, texts, grid)
    return list(
        sample(denoiser, prompt, grid=grid, sampler=sampler, generators=generators(*seeds), **options)
    )


class TestBudgets:
    @settings(max_examples=200, deadline=None)
    @given(
        tokens=st.integers(1, 5000),
        share=st.floats(0, 1),
        shift=st.floats(0.01, 100),
        kind=st.sampled_from(["shift", "cosine", "linear"]),
    )
    def test_every_step_reveals_and_all_are_revealed(self, tokens, share, shift, kind):
        steps = 1 + int(share * (tokens - 1))
        budget = {"shift": ShiftBudget(shift), "cosine": CosineBudget(), "linear": LinearBudget()}[kind]
        counts = budget.counts(tokens, steps)
        assert len(counts) == steps and sum(counts) == tokens and min(counts) >= 1

    def test_shapes(self):
        assert LinearBudget().counts(256, 16) == [16] * 16 == ShiftBudget(1).counts(256, 16)
        assert LinearBudget().counts(10, 10) == [1] * 10
        assert ShiftBudget(5).counts(7, 1) == [7]
        cosine = CosineBudget().counts(4096, 8)
        assert cosine == sorted(cosine)
        # MaskGIT: after half of the steps cos(π/4) of the tokens is still masked.
        assert sum(cosine[4:]) == pytest.approx(4096 * math.cos(math.pi / 4), abs=1)

    @pytest.mark.parametrize("steps", [0, -1, 17, 2.0, True, "8"])
    def test_bad_steps_are_named(self, steps):
        with pytest.raises(SmaltiError, match="steps must be"):
            ShiftBudget().counts(16, steps)

    @pytest.mark.parametrize("shift", [0, 1e-300, 1e300, -1.0, math.inf, math.nan, "5"])
    def test_bad_shifts_are_named(self, shift):
        with pytest.raises(SmaltiError, match="shift must be a finite number of at least 1e-06"):
            ShiftBudget(shift)
        with pytest.raises(SmaltiError, match="shift must be"):
            ShiftTemperature(shift)


@pytest.mark.parametrize(
    "schedule", [LinearTemperature(), CosineTemperature(), ShiftTemperature(), ExponentialTemperature()]
)
def test_temperatures_fall_from_one_to_the_floor(schedule):
    values = schedule.values(50)
    assert values[0] == 1 and values[-1] == pytest.approx(0.01, abs=2e-4)
    assert values == sorted(values, reverse=True)
    assert schedule.values(1) == [1.0]


class TestOrders:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 33), st.integers(1, 33))
    def test_halton_visits_every_position_once(self, height, width):
        assert sorted(halton_order(height, width)) == list(range(height * width))

    @pytest.mark.parametrize("side", [1, 2, 4, 16])
    def test_stratified_visits_every_position_once(self, side):
        order = stratified_order(side)
        assert sorted(order) == list(range(side * side))
        # One of the first four in each quadrant.
        assert len({(index // side * 2 // side, index % side * 2 // side) for index in order[:4]}) == min(
            4, side**2
        )

    @pytest.mark.parametrize("order", [stratified_order(32), halton_order(32, 32)])
    def test_prefixes_cover_the_grid_evenly(self, order):
        """Discrepancy: no quadrant of the grid is far from its share, unlike in a random order."""
        for count in (16, 64, 200):
            inside = sum(index // 32 < 16 and index % 32 < 16 for index in order[:count])
            assert abs(inside / count - 0.25) < 0.07

    def view(self, probability, noise=None, **changes):
        B, n = probability.shape
        fields = dict(
            index=0,
            steps=4,
            grid=(1, n),
            masked=torch.ones(B, n, dtype=torch.bool),
            visible=torch.zeros(B, n, dtype=torch.bool),
            tokens=torch.zeros(B, n, dtype=torch.int64),
            candidate=torch.ones(B, n, dtype=torch.int64),
            probability=probability,
            current_probability=torch.zeros(B, n),
            entropy=torch.zeros(B, n),
            noise=noise,
            confidence=torch.zeros(B, n),
            remaining=torch.zeros(B, dtype=torch.int64),
        )
        return StepView(**{**fields, **changes})

    def test_draws_without_replacement_have_the_right_odds(self):
        p = torch.tensor([0.9, 0.5, 0.1])
        noise = torch.rand(100_000, 3, generator=torch.Generator().manual_seed(0))
        first = DrawOrder(0.4).priority(self.view(p.expand(100_000, 3), noise)).argmax(dim=1)
        torch.testing.assert_close(first.bincount() / 100_000, (p / 0.4).softmax(0), atol=0.01, rtol=0)
        ranks = DrawOrder(0).priority(self.view(p[None], noise[:1])).argsort(descending=True)
        assert ranks.tolist() == [[0, 1, 2]]

    def test_confidence_noise_has_the_right_odds_and_cools_down(self):
        p = torch.tensor([0.6, 0.3, 0.1])
        noise = torch.rand(100_000, 3, generator=torch.Generator().manual_seed(0))
        view = self.view(p.expand(100_000, 3), noise)
        first = ConfidenceOrder(1.0).priority(view).argmax(dim=1)
        torch.testing.assert_close(first.bincount() / 100_000, p, atol=0.01, rtol=0)
        last = dataclasses.replace(view, index=3)
        cold = ConfidenceOrder(1.0, "linear").priority(last).argmax(dim=1)
        assert float((cold == 0).float().mean()) > 0.999

    def test_priorities_are_finite_at_the_ends(self):
        p = torch.tensor([[0.0, 1.0, 1e-45, 0.5]])
        noise = torch.tensor([[0.0, 1 - 2**-24, 0.0, 0.5]])
        for order in (ConfidenceOrder(1.0), DrawOrder(1e-5), RandomOrder(), HaltonOrder()):
            assert bool(order.priority(self.view(p, noise)).isfinite().all())

    @pytest.mark.parametrize("temperature", [-1.0, math.inf, "hot"])
    def test_bad_temperatures_are_named(self, temperature):
        for order in (ConfidenceOrder, DrawOrder):
            with pytest.raises(SmaltiError, match="temperature must be"):
                order(temperature)
        with pytest.raises(SmaltiError, match="schedule must be 'constant' or"):
            ConfidenceOrder(1.0, "boiling")

    @pytest.mark.parametrize("grid", [(6, 6), (4, 8)])
    def test_stratified_says_which_grids_it_takes(self, denoiser, grid):
        with pytest.raises(SmaltiError, match=f"power of two, not {grid[0]}×{grid[1]}"):
            run(denoiser, Sampler(steps=2, order=StratifiedOrder()), grid=grid)


class TestGuidance:
    def test_the_interval_counts_steps_from_one(self):
        guidance = Guidance(3.0, (0.25, 0.75))
        assert [guidance.at(index, 8) for index in range(8)] == [0, 3, 3, 3, 3, 3, 0, 0]
        assert [Guidance(3.0).at(index, 4) for index in range(4)] == [3.0] * 4

    @pytest.mark.parametrize(
        "arguments",
        [
            (-1.0,),
            (math.inf,),
            (math.nan,),
            ("3",),
            (1.0, (0.5, 0.2)),
            (1.0, (-0.1, 1)),
            (1.0, (0, 1.1)),
            (1.0, 3),
        ],
    )
    def test_bad_guidance_is_named(self, arguments):
        with pytest.raises(SmaltiError, match="guidance"):
            Guidance(*arguments)

    def test_it_is_one_pass_of_twice_the_batch_inside_the_interval_only(self, denoiser):
        sizes = []
        hook = denoiser.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[1])))
        run(denoiser, Sampler(steps=4, guidance=Guidance(2.0, (0.0, 0.5))))
        hook.remove()
        assert sizes == [2, 2, 1, 1]

    def test_it_combines_the_logits(self, denoiser):
        step = run(denoiser, Sampler(steps=1, guidance=Guidance(1.5), argmax=True))[0]
        prompt = tiny_prompts(denoiser, TEXTS[:1])
        masks = torch.full((1, *GRID), denoiser.config.mask_code)
        with torch.inference_mode():
            both = [denoiser(masks, part) @ denoiser.head.T for part in (prompt, prompt.unconditional())]
        p = (2.5 * both[0] - 1.5 * both[1]).softmax(dim=2)
        assert torch.equal(step.tokens.flatten(1), p.argmax(dim=2))
        torch.testing.assert_close(step.probability.flatten(1), p.max(dim=2).values, atol=1e-4, rtol=1e-4)


class TestLoop:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("draw", ["sample", "argmax"])
    def test_every_position_is_revealed_once_and_stays(self, denoiser, order, draw):
        sampler = Sampler(steps=5, order=order, argmax=draw == "argmax", guidance=Guidance(1.0))
        steps = run(denoiser, sampler, TEXTS, range(4))
        counts = sampler.budget.counts(16, 5)
        mask = denoiser.config.mask_code
        before = torch.full((4, *GRID), mask)
        seen = torch.zeros(4, *GRID, dtype=torch.int64)
        for index, step in enumerate(steps):
            assert (step.index, step.steps) == (index, 5)
            assert step.revealed.flatten(1).sum(1).tolist() == [counts[index]] * 4
            assert not step.edited.any()
            assert torch.equal(step.tokens != before, step.revealed)
            before = step.tokens
            seen += step.revealed
        assert bool((seen == 1).all()) and not bool((before == mask).any())
        assert bool((before < 64).all())

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("conditioning", ["sequence", "cross_attention"])
    def test_an_image_does_not_depend_on_its_batch(self, order, conditioning):
        denoiser = tiny_denoiser(conditioning=conditioning, image_positions="axial")
        sampler = Sampler(
            steps=6,
            order=order,
            guidance=Guidance(2.0, (0, 0.7)),
            revision=ThresholdRevision(0.3),
            draw=Draw(top_p=0.95),
        )
        together = run(denoiser, sampler, TEXTS, range(4), (8, 8))
        turned = run(denoiser, sampler, TEXTS[::-1], range(3, -1, -1), (8, 8))
        assert sum(int(step.edited.sum()) for step in together) > 0
        for index in range(4):
            alone = run(denoiser, sampler, TEXTS[index : index + 1], (index,), (8, 8))
            for step, one, other in zip(together, alone, turned, strict=True):
                assert torch.equal(step.tokens[index], one.tokens[0])
                assert torch.equal(step.tokens[index], other.tokens[3 - index])

    def test_seeds_decide(self, denoiser):
        sampler = Sampler(steps=4)
        first, again, other = (run(denoiser, sampler, seeds=(seed,))[-1].tokens for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_draws_of_a_position_do_not_depend_on_what_is_masked(self, denoiser):
        """One number a position a step: with a start grid the generator advances as without one."""
        start = torch.full((1, *GRID), denoiser.config.mask_code)
        start[0, 0, 1:] = 5
        states = []
        for tokens in (None, start):
            generator = torch.Generator().manual_seed(0)
            prompt = tiny_prompts(denoiser, TEXTS[:1])
            list(
                sample(
                    denoiser,
                    prompt,
                    grid=GRID,
                    sampler=Sampler(steps=3),
                    generators=[generator],
                    tokens=tokens,
                )
            )
            states.append(generator.get_state())
        assert torch.equal(*states)

    def test_one_step_and_as_many_as_tokens(self, denoiser):
        assert len(run(denoiser, Sampler(steps=1))) == 1
        steps = run(denoiser, Sampler(steps=16))
        assert [int(step.revealed.sum()) for step in steps] == [1] * 16

    @pytest.mark.parametrize("order", [StratifiedOrder(), HaltonOrder(), RandomOrder()])
    @pytest.mark.parametrize("editing", [NoRevision(), ThresholdRevision(0.05)])
    def test_what_is_known_beforehand_is_not_asked_for(self, denoiser, monkeypatch, order, editing):
        """An order that needs nothing of a pass gives the same grids from fewer rows of the head."""
        rows = []

        def counted(hidden, *arguments, **options):
            rows.append(len(hidden))
            return sample_tokens(hidden, *arguments, **options)

        monkeypatch.setattr("smalti.sampling.predictor.sample_tokens", counted)
        sighted = type("Sighted", (type(order),), {"fixed": False})()
        sampler = Sampler(
            steps=5,
            order=order,
            revision=editing,
            guidance=Guidance(1.0),
            refinement=RareRefinement(0.4, 0.02),
        )
        start = torch.full((4, *GRID), denoiser.config.mask_code)
        start[1, 1:], start[2, 0, 0] = 5, 7
        few = run(denoiser, sampler, TEXTS, range(4), tokens=start)
        few_rows, rows[:] = list(rows), []
        all_steps = run(denoiser, dataclasses.replace(sampler, order=sighted), TEXTS, range(4), tokens=start)
        for step, other in zip(few, all_steps, strict=True):
            assert torch.equal(step.tokens, other.tokens) and torch.equal(step.edited, other.edited)
        assert sum(few_rows) < sum(rows)
        if not editing.enabled:
            assert few_rows == [int(step.revealed.sum()) for step in few]

    @pytest.mark.parametrize("order", [ConfidenceOrder(), HaltonOrder()])
    def test_a_preview_knows_every_masked_position_and_changes_nothing(self, denoiser, order):
        sampler = Sampler(steps=5, order=order, revision=ThresholdRevision(0.2))
        plain = run(denoiser, sampler, TEXTS, range(4))
        shown = run(denoiser, sampler, TEXTS, range(4), preview=True)
        for step, other in zip(plain, shown, strict=True):
            assert torch.equal(step.tokens, other.tokens)
            assert bool((other.candidate < denoiser.config.codebook_size).all())
            assert torch.equal(other.candidate[other.revealed], other.tokens[other.revealed])

    def test_a_negative_prompt_takes_the_place_of_the_empty_one(self, denoiser):
        prompt = tiny_prompts(denoiser, TEXTS)
        sampler = Sampler(steps=4, guidance=Guidance(2.0))

        def last(negative, guided=sampler):
            return list(
                sample(
                    denoiser,
                    prompt,
                    grid=GRID,
                    sampler=guided,
                    generators=generators(*range(4)),
                    negative=negative,
                )
            )[-1].tokens

        assert torch.equal(last(None), last(prompt.unconditional()))
        negative = tiny_prompts(denoiser, TEXTS[::-1])
        assert not torch.equal(last(None), last(negative))
        # Of another length it is another pass; in two passes it is the same.
        apart = dataclasses.replace(sampler, guidance_batched=False)
        assert torch.equal(last(negative), last(negative, apart))
        # The prompt as its own negative prompt is no guidance.
        assert torch.equal(last(prompt), last(None, dataclasses.replace(sampler, guidance=Guidance(0.0))))

    def test_stopping_early_costs_no_more_passes(self, denoiser):
        calls = []
        hook = denoiser.register_forward_pre_hook(lambda *event: calls.append(1))
        prompt = tiny_prompts(denoiser, TEXTS[:1])
        for step in sample(denoiser, prompt, grid=GRID, sampler=Sampler(steps=8), generators=generators(0)):
            if step.index == 2:
                break
        hook.remove()
        assert len(calls) == 3

    def test_results_are_ordinary_tensors(self, denoiser):
        step = run(denoiser, Sampler(steps=2))[-1]
        assert step.tokens.dtype == torch.int64 and step.probability.dtype == torch.float32
        assert not step.tokens.is_inference() and not step.probability.is_inference()

    def test_bfloat16(self):
        denoiser = tiny_denoiser().bfloat16()
        tokens = run(denoiser, Sampler(steps=4, guidance=Guidance(2.0)), TEXTS, range(4))[-1].tokens
        assert bool((tokens < 64).all())

    @settings(max_examples=25, deadline=None)
    @given(
        steps=st.integers(1, 16),
        seed=st.integers(0, 1000),
        order=st.sampled_from(ORDERS),
        budget=st.sampled_from([ShiftBudget(3.0), CosineBudget(), LinearBudget()]),
        threshold=st.sampled_from([None, 0.05, 1.0]),
        top_k=st.sampled_from([None, 1, 7]),
        schedule=st.sampled_from([ConstantTemperature(), LinearTemperature()]),
        final=st.sampled_from(["grid", "release"]),
    )
    def test_any_composition_fills_the_grid(
        self, denoiser, steps, seed, order, budget, threshold, top_k, schedule, final
    ):
        sampler = Sampler(
            steps=steps,
            budget=budget,
            order=order,
            revision=NoRevision() if threshold is None else ThresholdRevision(threshold),
            draw=Draw(top_k=top_k),
            temperature_schedule=schedule,
            final=final,
        )
        tokens = run(denoiser, sampler, TEXTS[:2], (seed, seed + 1))[-1].tokens
        assert bool(((tokens >= 0) & (tokens < 64)).all())


class TestEditing:
    def test_only_visible_tokens_with_a_surer_other_candidate_change(self, denoiser):
        sampler = Sampler(steps=6, revision=ThresholdRevision(0.2))
        steps = run(denoiser, sampler, TEXTS, range(4))
        visible = torch.zeros(4, *GRID, dtype=torch.bool)
        before = torch.full((4, *GRID), denoiser.config.mask_code)
        edits = 0
        for step in steps:
            assert not bool((step.edited & ~visible).any())
            assert bool((step.probability[step.edited] > 0.2).all())
            assert bool((step.tokens != before)[step.edited].all())
            assert torch.equal(step.tokens != before, step.edited | step.revealed)
            edits += int(step.edited.sum())
            visible, before = visible | step.revealed, step.tokens
        assert edits > 0

    def test_the_releases_end_takes_the_last_candidate_everywhere(self, denoiser):
        grid = Sampler(steps=6, revision=ThresholdRevision(0.9), argmax=True)
        release = dataclasses.replace(grid, final="release")
        kept, last = run(denoiser, grid)[-1], run(denoiser, release)[-1]
        with torch.inference_mode():
            before = run(denoiser, grid)[-2].tokens
            hidden = denoiser(before, tiny_prompts(denoiser, TEXTS[:1]))
            candidates = (hidden @ denoiser.head.T).argmax(dim=2).unflatten(1, GRID)
        assert torch.equal(last.tokens, candidates)
        assert not torch.equal(last.tokens, kept.tokens)
        assert torch.equal(last.edited, kept.edited)

    def test_without_editing_the_ends_agree(self, denoiser):
        ends = [run(denoiser, Sampler(steps=4, final=final))[-1].tokens for final in ("grid", "release")]
        assert torch.equal(*ends)

    @pytest.mark.parametrize("threshold", [0, -0.5, 1.5, math.nan, math.inf, "0.6", None])
    def test_bad_thresholds_are_named(self, threshold):
        with pytest.raises(SmaltiError, match="threshold must be a finite number above 0 and at most 1"):
            ThresholdRevision(threshold)


class TestStartGrids:
    def start(self, denoiser, known):
        tokens = torch.full((len(known), *GRID), denoiser.config.mask_code)
        for row, count in enumerate(known):
            tokens[row].view(-1)[:count] = torch.arange(count)
        return tokens

    def test_only_masks_are_filled_and_each_image_has_its_own_budget(self, denoiser):
        start = self.start(denoiser, [0, 10, 14, 16])
        steps = run(denoiser, Sampler(steps=4), TEXTS, range(4), tokens=start)
        revealed = torch.stack([step.revealed.flatten(1).sum(1) for step in steps], dim=1)
        assert revealed.tolist() == [
            ShiftBudget().counts(16, 4),
            ShiftBudget().counts(6, 4),
            [1, 1, 0, 0],
            [0, 0, 0, 0],
        ]
        known = start != denoiser.config.mask_code
        assert torch.equal(steps[-1].tokens[known], start[known])
        assert not bool((steps[-1].tokens == denoiser.config.mask_code).any())

    def test_editing_reaches_the_start_grid_where_it_may(self, denoiser):
        start = self.start(denoiser, [16, 8])
        editable = torch.ones(2, *GRID, dtype=torch.bool)
        editable[:, 0] = False
        for final in ("grid", "release"):
            sampler = Sampler(steps=3, revision=ThresholdRevision(0.01), final=final)
            steps = run(denoiser, sampler, TEXTS[:2], (0, 1), tokens=start, editable=editable)
            assert sum(int(step.edited.sum()) for step in steps) > 0
            assert torch.equal(steps[-1].tokens[:, 0], start[:, 0])
        assert torch.equal(start, self.start(denoiser, [16, 8])), "the caller's tensor is left alone"

    def test_an_image_does_not_depend_on_its_batch(self, denoiser):
        start = self.start(denoiser, [3, 12])
        together = run(denoiser, Sampler(steps=5), TEXTS[:2], (0, 1), tokens=start)[-1].tokens
        alone = [
            run(denoiser, Sampler(steps=5), TEXTS[i : i + 1], (i,), tokens=start[i : i + 1])[-1].tokens
            for i in range(2)
        ]
        assert torch.equal(together, torch.cat(alone))


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
            ({"steps": 1.5}, "steps must be a whole number"),
            ({"final": "x0"}, "final must be 'grid' or 'release', not 'x0'"),
        ],
    )
    def test_samplers(self, options, message):
        with pytest.raises(SmaltiError, match=message):
            Sampler(**options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperature": -0.1}, "temperature must be"),
            ({"temperature": math.inf}, "temperature must be"),
            ({"top_k": 0}, "top_k must be"),
            ({"top_p": 0.0}, "top_p must be"),
        ],
    )
    def test_draws(self, options, message):
        with pytest.raises(SmaltiError, match=message):
            Draw(**options)

    def test_it_is_raised_before_the_first_step(self, denoiser):
        with pytest.raises(SmaltiError, match="steps must be at most 16, the number of tokens, not 17"):
            sample(
                denoiser,
                tiny_prompts(denoiser, TEXTS[:1]),
                grid=GRID,
                sampler=Sampler(steps=17),
                generators=generators(0),
            )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"generators": []}, "generators must be one an image, 1, not 0"),
            ({"grid": (4, 8)}, "must reserve 8 slots for a grid of 4×8, not 4"),
            ({"grid": (3, 4)}, "multiples of 2 tokens, not 3×4"),
            ({"tokens": torch.zeros(1, 4, 5, dtype=torch.int64)}, r"tokens must be \(1, 4, 4\)"),
            ({"tokens": torch.zeros(1, 4, 4)}, "torch.int64"),
            ({"tokens": torch.full((1, 4, 4), 64)}, "tokens must be from 0 to 63 or the mask 65"),
            ({"tokens": torch.full((1, 4, 4), -1)}, "tokens must be from 0 to 63"),
            ({"editable": torch.zeros(1, 4, 4, dtype=torch.bool)}, "editable must be True wherever"),
            ({"editable": torch.ones(1, 4, 4)}, "editable must be .* torch.bool"),
        ],
    )
    def test_arguments(self, denoiser, options, message):
        arguments = dict(grid=GRID, sampler=Sampler(steps=2), generators=generators(0))
        with pytest.raises(SmaltiError, match=message):
            sample(denoiser, tiny_prompts(denoiser, TEXTS[:1]), **{**arguments, **options})

    def test_weights_that_are_not_finite(self):
        denoiser = tiny_denoiser()
        with torch.no_grad():
            denoiser.norm.weight[0] = math.nan
        with pytest.raises(SmaltiError, match="not finite"):
            run(denoiser, Sampler(steps=2))


def test_prompts_of_one_length_are_one_pass(denoiser):
    prompt = PromptBatch.cat(tiny_prompts(denoiser, TEXTS[2:3]), tiny_prompts(denoiser, TEXTS[3:4]))
    sizes = []
    hook = denoiser.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[1])))
    for texts in (["one cat", "two cat"], ["one cat", "three cats"]):
        prompt = tiny_prompts(denoiser, texts)
        list(sample(denoiser, prompt, grid=GRID, sampler=Sampler(steps=1), generators=generators(0, 1)))
    hook.remove()
    assert sizes == [2, 1, 1]


@pytest.mark.parametrize("reuse", [NoReuse(), PromptReuse(2), CellReuse(2, warmup=0)], ids=str)
def test_guidance_in_two_passes_is_the_same(reuse):
    """One batch of two or two passes: the same tokens, whatever the prompts' lengths."""
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, ["a cat", "two red dogs", "a bat"])
    results = []
    for batched in (True, False):
        sampler = Sampler(
            steps=4,
            guidance=Guidance(2.0, (0.3, 1.0)),
            revision=ThresholdRevision(0.2),
            guidance_batched=batched,
            reuse=reuse,
        )
        steps = list(sample(denoiser, prompt, grid=(4, 4), sampler=sampler, generators=generators(1, 2, 3)))
        results.append(steps[-1])
    assert torch.equal(results[0].tokens, results[1].tokens)
    assert torch.allclose(results[0].probability, results[1].probability, atol=1e-4)
