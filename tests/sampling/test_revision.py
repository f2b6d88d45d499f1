"""Rules that mask tokens again, orders and budgets that look back or ahead, and what they are told of earlier steps."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GRID, TEXTS, generators, tiny_denoiser, tiny_prompts

from smalti.errors import SmaltiError
from smalti.generation.build import make_sampler
from smalti.generation.settings import GenerationSettings
from smalti.sampling.budgets import AdaptiveBudget, CosineBudget, ShiftBudget
from smalti.sampling.guidance import Guidance
from smalti.sampling.orders import ConfidenceOrder, HaltonOrder, HistoryOrder, RandomOrder
from smalti.sampling.ranking import first_among, places
from smalti.sampling.reuse import CellReuse, NoReuse, PromptReuse
from smalti.sampling.revision import (
    NoRevision,
    RunningConfidenceRevision,
    ThresholdRevision,
    TokenToMaskRevision,
)
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.view import StepView

EDITINGS = [
    NoRevision(),
    ThresholdRevision(0.2),
    TokenToMaskRevision(0.3, 0.25),
    RunningConfidenceRevision(),
    RunningConfidenceRevision(0.4),
]
REMASKING = EDITINGS[2:]
BUDGETS = [ShiftBudget(3.0), CosineBudget(), AdaptiveBudget(0.3, 0.0, 0.3), AdaptiveBudget(0.6, 0.1, 1.0)]
ORDERS = [ConfidenceOrder(), HistoryOrder(3), HistoryOrder(4, 1.0, "linear"), HaltonOrder()]


@pytest.fixture(scope="module")
def denoiser():
    return tiny_denoiser()


def run(denoiser, sampler, texts=TEXTS[:1], seeds=(0,), grid=GRID, **options):
    prompt = tiny_prompts(denoiser, texts, grid)
    return list(
        sample(denoiser, prompt, grid=grid, sampler=sampler, generators=generators(*seeds), **options)
    )


def start_grid(denoiser, seed, B=2):
    """(tokens, editable): a third of the tokens are known, and half of these are fixed."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 64, (B, *GRID), generator=generator)
    kind = torch.rand((B, *GRID), generator=generator)
    return tokens.masked_fill(kind > 1 / 3, denoiser.config.mask_code), kind > 1 / 6


def make_view(**changes):
    """A view of one step; (B, n) of what is given, zeros and nothing visible for the rest."""
    B, n = next(iter(changes.values())).shape
    zeros, none = torch.zeros(B, n), torch.zeros(B, n, dtype=torch.bool)
    visible = changes.get("visible", none)
    fields = dict(
        index=1,
        steps=4,
        grid=(1, n),
        masked=~visible,
        visible=visible,
        tokens=torch.zeros(B, n, dtype=torch.int64),
        candidate=torch.ones(B, n, dtype=torch.int64),
        probability=zeros,
        current_probability=zeros,
        entropy=zeros,
        noise=None,
        confidence=zeros,
        remaining=torch.full((B,), n),
    )
    return StepView(**{**fields, **changes})


@dataclasses.dataclass(frozen=True)
class Watched:
    """A rule of editing whose views are kept."""

    rule: object
    views: list = dataclasses.field(default_factory=list)

    @property
    def enabled(self):
        return self.rule.enabled

    @property
    def remasking(self):
        return self.rule.remasking

    @property
    def noisy(self):
        return self.rule.noisy

    def changes(self, view):
        return self.rule.changes(view)

    def remasks(self, view):
        self.views.append(view)
        return self.rule.remasks(view)


class TestLoop:
    @pytest.mark.slow
    @settings(max_examples=60, deadline=None)
    @given(
        steps=st.integers(1, 10),
        seed=st.integers(0, 1000),
        editing=st.sampled_from(EDITINGS),
        order=st.sampled_from(ORDERS),
        budget=st.sampled_from(BUDGETS),
        started=st.booleans(),
        final=st.sampled_from(["grid", "release"]),
    )
    def test_any_composition_keeps_its_promises(
        self, denoiser, steps, seed, editing, order, budget, started, final
    ):
        sampler = Sampler(steps=steps, revision=editing, order=order, budget=budget, final=final)
        mask, everywhere = denoiser.config.mask_code, torch.ones(2, *GRID, dtype=torch.bool)
        before, editable = torch.full((2, *GRID), mask), everywhere
        options = {}
        if started:
            before, editable = start_grid(denoiser, seed)
            options = dict(tokens=before, editable=editable)
        counts = [
            budget.counts(int(count), min(steps, int(count))) if count else []
            for count in (before == mask).flatten(1).sum(1)
        ]
        taken = run(denoiser, sampler, TEXTS[:2], (seed, seed + 1), **options)
        assert [step.index for step in taken] == list(range(len(taken)))
        for step in taken:
            was, now = before == mask, step.tokens == mask
            known = editable & ~was
            assert not bool((step.revealed & ~was).any() or (step.edited & ~known).any())
            assert not bool((step.remasked & (~known | step.edited)).any())
            assert torch.equal(now, was & ~step.revealed | step.remasked)
            if final == "grid" or step.index < len(taken) - 1 and not isinstance(budget, AdaptiveBudget):
                changed = step.revealed | step.edited | step.remasked
                assert torch.equal(step.tokens[~changed], before[~changed])
            assert torch.equal(step.tokens[~editable], before[~editable])
            for image, count in enumerate(counts):
                left = int(now[image].sum())
                if isinstance(budget, AdaptiveBudget):
                    assert left <= sum(count[step.index + 1 :]) and (
                        not was[image].any() or left < was[image].sum()
                    )
                else:
                    assert left == sum(count[step.index + 1 :])
                if not left:
                    assert not step.remasked[image].any()
            before = step.tokens
        assert bool(((before >= 0) & (before < 64)).all())
        assert len(taken) == steps or isinstance(budget, AdaptiveBudget)

    @pytest.mark.parametrize("editing", REMASKING)
    def test_what_is_masked_again_is_filled_again(self, denoiser, editing):
        taken = run(denoiser, Sampler(steps=8, revision=editing), TEXTS, range(4), (8, 8))
        revealed, remasked = (
            sum(getattr(step, name).long() for step in taken) for name in ("revealed", "remasked")
        )
        assert torch.equal(revealed, remasked + 1)
        assert int(remasked.sum()) > 0 and not bool(taken[-1].remasked.any())

    @pytest.mark.parametrize("editing", EDITINGS)
    @pytest.mark.parametrize("order", ORDERS[2:])
    @pytest.mark.parametrize("budget", [BUDGETS[1], AdaptiveBudget(0.35, 0.0, 0.2)])
    def test_an_image_does_not_depend_on_its_batch(self, editing, order, budget):
        denoiser = tiny_denoiser(image_positions="axial")
        sampler = Sampler(steps=9, order=order, budget=budget, guidance=Guidance(1.0), revision=editing)
        together = run(denoiser, sampler, TEXTS, range(4), (8, 8))
        again = run(denoiser, sampler, TEXTS, range(4), (8, 8))
        assert all(torch.equal(one.tokens, two.tokens) for one, two in zip(together, again, strict=True))
        lengths = set()
        for index in range(4):
            alone = run(denoiser, sampler, TEXTS[index : index + 1], (index,), (8, 8))
            lengths.add(len(alone))
            assert [bool(step.active[index]) for step in together] == [
                step.index < len(alone) for step in together
            ]
            for number, step in enumerate(together):
                one = alone[min(number, len(alone) - 1)]
                assert torch.equal(step.tokens[index], one.tokens[0])
                if number < len(alone):
                    for name in ("revealed", "edited", "remasked"):
                        assert torch.equal(getattr(step, name)[index], getattr(one, name)[0])
        assert len(together) == max(lengths)

    @pytest.mark.parametrize("reuse", [NoReuse(), PromptReuse(3), CellReuse(3, warmup=0)], ids=str)
    def test_images_end_on_their_own_and_take_no_further_edits(self, denoiser, reuse):
        """One image is full from the start, one has three masks, one sixteen."""
        mask = denoiser.config.mask_code
        start = torch.arange(48).reshape(3, *GRID)
        start.view(3, -1)[1, :3] = mask
        start[2] = mask
        sampler = Sampler(
            steps=8,
            budget=AdaptiveBudget(1.0),
            revision=ThresholdRevision(0.01),
            reuse=reuse,
        )
        taken = run(denoiser, sampler, TEXTS[:3], range(3), tokens=start)
        assert [sum(bool(step.active[image]) for step in taken) for image in range(3)] == [1, 3, 8]
        assert bool(taken[0].edited[0].any())
        for image, last in ((0, 0), (1, 2)):
            assert all(torch.equal(step.tokens[image], taken[last].tokens[image]) for step in taken[last:])
            assert not any(bool(step.edited[image].any()) for step in taken[last + 1 :])
            part = slice(image, image + 1)
            alone = run(denoiser, sampler, TEXTS[part], (image,), tokens=start[part])
            assert torch.equal(alone[-1].tokens[0], taken[-1].tokens[image]) and len(alone) == last + 1

    def test_finished_images_cost_nothing(self, denoiser):
        sizes = []
        hook = denoiser.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[1])))
        start = torch.full((2, *GRID), denoiser.config.mask_code)
        start[0, 1:] = 7
        sampler = Sampler(steps=6, budget=AdaptiveBudget(1.0), guidance=Guidance(1.0))
        run(denoiser, sampler, ["one cat", "one bat"], (0, 1), tokens=start)
        hook.remove()
        assert sizes == [4, 4, 4, 4, 2, 2]


class TestWhatRulesAreTold:
    @settings(max_examples=30, deadline=None)
    @given(
        steps=st.integers(2, 8),
        seed=st.integers(0, 1000),
        editing=st.sampled_from(EDITINGS),
        order=st.sampled_from([ConfidenceOrder(), HistoryOrder(1), HistoryOrder(3), RandomOrder()]),
        started=st.booleans(),
    )
    def test_confidence_and_past(self, denoiser, steps, seed, editing, order, started):
        """Against a plain account, position by position, of what happened to each token."""
        watched = Watched(editing)
        tokens, editable = start_grid(denoiser, seed) if started else (None, None)
        sampler = Sampler(steps=steps, revision=watched, order=order)
        taken = run(denoiser, sampler, TEXTS[:2], (seed, seed + 1), tokens=tokens, editable=editable)
        assert len(watched.views) == len(taken) == steps
        account = [[0.0] * 16 for _ in range(2)]
        for index, (view, step) in enumerate(zip(watched.views, taken, strict=True)):
            depth = min(index, getattr(order, "window", 1) - 1)
            assert len(view.past) == depth
            for back, (candidate, probability) in enumerate(view.past, start=1):
                assert torch.equal(candidate, watched.views[index - back].candidate)
                assert torch.equal(probability, watched.views[index - back].probability)
            revealed, edited, remasked = (
                getattr(step, name).flatten(1).tolist() for name in ("revealed", "edited", "remasked")
            )
            for image, row in enumerate(account):
                for n in range(16):
                    if view.visible[image, n]:
                        row[n] = max(row[n], float(view.current_probability[image, n]))
                    assert float(view.confidence[image, n]) == row[n]
                    assert not (view.masked[image, n] and row[n])
                    if revealed[image][n] or edited[image][n]:
                        row[n] = float(view.probability[image, n])
                    elif remasked[image][n]:
                        row[n] = 0.0
            left = (step.tokens == denoiser.config.mask_code).flatten(1).sum(1)
            assert torch.equal(view.remaining, left)

    def test_current_probabilities_are_the_models(self, denoiser):
        """At the second step, from the first one's tokens."""
        watched = Watched(RunningConfidenceRevision())
        taken = run(denoiser, Sampler(steps=3, revision=watched))
        with torch.inference_mode():
            logits = denoiser(taken[0].tokens, tiny_prompts(denoiser, TEXTS[:1]))[0] @ denoiser.head.T
        view = watched.views[1]
        current = logits.softmax(1).gather(1, view.tokens[0, :, None].clamp(max=63))[:, 0]
        torch.testing.assert_close(
            view.current_probability[0], current * view.visible[0], atol=1e-5, rtol=1e-4
        )
        assert bool((view.confidence >= view.current_probability).all()) and bool(view.visible.any())


class TestRules:
    probabilities = st.lists(
        st.sampled_from([0.0, 0.05, 0.1, 0.5, 0.5000001, 0.9, 1.0]) | st.floats(0, 1, width=32),
        min_size=1,
        max_size=24,
    )

    @settings(max_examples=80, deadline=None)
    @given(
        p=probabilities,
        visible=st.integers(0),
        threshold=st.floats(0.01, 1),
        share=st.floats(0.01, 1),
        left=st.integers(0, 24),
    )
    def test_token_to_mask(self, p, visible, threshold, share, left):
        shown = [n for n in range(len(p)) if visible >> n & 1]
        current = torch.tensor([p])
        view = make_view(
            current_probability=current,
            visible=torch.tensor([[n in shown for n in range(len(p))]]),
            remaining=torch.tensor([left]),
        )
        rule = TokenToMaskRevision(threshold, share)
        doubtful = [n for n in shown if bool(current[0, n] < threshold)]
        doubtful.sort(key=lambda n: (float(current[0, n]), n))
        limit = min(int((share * torch.tensor(len(shown))).ceil()), left)
        expected = sorted(doubtful[:limit])
        assert rule.remasks(view)[0].nonzero()[:, 0].tolist() == expected
        assert not bool(rule.changes(view).any())

    @settings(max_examples=80, deadline=None)
    @given(
        p=probabilities, visible=st.integers(0), threshold=st.sampled_from([0.3, 1.0]), share=st.floats(0, 1)
    )
    def test_running_confidence_is_a_competition(self, p, visible, threshold, share):
        shown = [n for n in range(len(p)) if visible >> n & 1]
        score = torch.tensor([p])
        is_visible = torch.tensor([[n in shown for n in range(len(p))]])
        left = int(share * (len(p) - len(shown)))
        view = make_view(
            visible=is_visible,
            probability=score.masked_fill(is_visible, 0.0),
            confidence=score.masked_fill(~is_visible, 0.0),
            remaining=torch.tensor([left]),
        )
        best = sorted(range(len(p)), key=lambda n: (-float(score[0, n]), n not in shown, n))
        lost = [n for n in best[len(p) - left :] if n in shown and bool(score[0, n] < threshold)]
        rule = RunningConfidenceRevision(threshold)
        assert rule.remasks(view)[0].nonzero()[:, 0].tolist() == sorted(lost)

    def test_with_the_confidence_order_the_winners_are_visible(self, denoiser):
        """After every step those positions are visible that had the highest confidence or candidate's probability."""
        watched = Watched(RunningConfidenceRevision())
        taken = run(denoiser, Sampler(steps=8, revision=watched), TEXTS, range(4), (8, 8))
        moved = 0
        for view, step in zip(watched.views, taken, strict=True):
            score = torch.where(view.visible, view.confidence, view.probability)
            known = (step.tokens != denoiser.config.mask_code).flatten(1)
            for image in range(4):
                inside, outside = score[image][known[image]], score[image][~known[image]]
                assert not len(outside) or float(inside.min()) >= float(outside.max())
            moved += int(step.remasked.sum())
        assert moved > 0

    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(
            st.lists(st.tuples(st.integers(0, 2), st.floats(2**-10, 1, width=32)), min_size=5, max_size=5),
            min_size=1,
            max_size=4,
        )
    )
    def test_history_is_the_mean_agreement(self, rows):
        (candidate, probability), *past = [
            (torch.tensor([[token for token, _ in row]]), torch.tensor([[p for _, p in row]])) for row in rows
        ]
        view = make_view(candidate=candidate, probability=probability, past=tuple(past))
        expected = [
            sum(row[n][1] for row in rows if row[n][0] == rows[0][n][0]) / len(rows) for n in range(5)
        ]
        found = HistoryOrder(len(rows)).priority(view)[0]
        torch.testing.assert_close(found, torch.tensor(expected).log(), atol=1e-5, rtol=1e-5)

    def test_a_history_of_one_step_is_the_confidence_order(self, denoiser):
        ends = [
            run(denoiser, Sampler(steps=5, order=order))[-1].tokens
            for order in (ConfidenceOrder(1.5, "linear"), HistoryOrder(1, 1.5, "linear"))
        ]
        assert torch.equal(*ends)

    @settings(max_examples=80, deadline=None)
    @given(
        p=probabilities,
        masked=st.integers(0),
        threshold=st.floats(0, 1),
        shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
        planned=st.integers(0, 24),
    )
    def test_adaptive_reveals_the_sure_ones_between_floor_and_ceiling(
        self, p, masked, threshold, shares, planned
    ):
        probability = torch.tensor([p])
        hidden = torch.tensor([[bool(masked >> n & 1) for n in range(len(p))]])
        view = make_view(probability=probability, masked=hidden, remaining=torch.tensor([planned]))
        floor, ceiling = sorted(shares)
        budget = AdaptiveBudget(threshold, floor, ceiling)
        sure = hidden & (probability > threshold)
        assert torch.equal(budget.first(view), sure)
        count = min(max(int(sure.sum()), round(floor * len(p)), 1), max(round(ceiling * len(p)), 1))
        left = int(hidden.sum())
        assert budget.remaining(view).tolist() == [min(max(left - count, 0), planned)]

    @pytest.mark.parametrize(("threshold", "kind"), [(0.1, "more are sure"), (0.4, "fewer are sure")])
    def test_adaptive_takes_the_sure_ones_first_then_the_order(self, denoiser, threshold, kind):
        budget, order, kinds = AdaptiveBudget(threshold, 0.0, 0.1), HaltonOrder(), set()
        watched = Watched(NoRevision())
        sampler = Sampler(steps=12, budget=budget, order=order, revision=watched)
        taken = run(denoiser, sampler, TEXTS, range(4), (8, 8))
        for view, step in zip(watched.views, taken, strict=True):
            revealed = step.revealed.flatten(1)
            sure, priority = budget.first(view), order.priority(view)
            for image in range(4):
                count, number = int(revealed[image].sum()), int(sure[image].sum())
                masked = view.masked[image].nonzero()[:, 0].tolist()
                ranked = sorted((-int(sure[image, n]), -float(priority[image, n]), n) for n in masked)
                expected = sorted(n for _, _, n in ranked[:count])
                assert revealed[image].nonzero()[:, 0].tolist() == expected
                if number:
                    kinds.add("more are sure" if number > count else "fewer are sure")
        assert kind in kinds

    @pytest.mark.parametrize(("ceiling", "passes"), [(1.0, 1), (0.5, 2), (0.25, 4)])
    def test_a_sure_model_is_done_early(self, denoiser, ceiling, passes):
        calls = []
        hook = denoiser.register_forward_pre_hook(lambda *event: calls.append(1))
        taken = run(denoiser, Sampler(steps=12, budget=AdaptiveBudget(0.0, 0.0, ceiling)))
        hook.remove()
        assert len(taken) == len(calls) == passes

    def test_an_unsure_one_takes_the_plan(self, denoiser):
        ends = [
            run(denoiser, Sampler(steps=6, budget=budget))[-1].tokens
            for budget in (CosineBudget(), AdaptiveBudget(1.0))
        ]
        assert torch.equal(*ends)

    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(st.booleans(), st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), min_size=1, max_size=9
        ),
        count=st.integers(0, 10),
    )
    def test_places(self, rows, count):
        keys = [torch.tensor([[row[key] for row in rows]]) for key in range(3)]
        ranked = sorted(range(len(rows)), key=lambda n: (*(-value for value in rows[n]), n))
        assert places(*keys)[0].tolist() == [ranked.index(n) for n in range(len(rows))]
        chosen = first_among(keys[0], torch.tensor([count]), *keys[1:])[0].nonzero()[:, 0].tolist()
        assert chosen == sorted([n for n in ranked if rows[n][0]][:count])

    @pytest.mark.parametrize(
        ("rule", "arguments", "message"),
        [
            (TokenToMaskRevision, (0,), "threshold must be a finite number above 0"),
            (TokenToMaskRevision, (0.1, 1.5), "share must be"),
            (RunningConfidenceRevision, (math.nan,), "threshold must be"),
            (HistoryOrder, (0,), "window must be a whole number of at least 1"),
            (HistoryOrder, (2, -1.0), "temperature must be"),
            (AdaptiveBudget, (1.5,), "threshold must be"),
            (AdaptiveBudget, (0.9, -0.1), "floor must be"),
            (AdaptiveBudget, (0.9, 0.5, 0.4), "ceiling must be .* of at least 0.5"),
        ],
    )
    def test_bad_values_are_named(self, rule, arguments, message):
        with pytest.raises(SmaltiError, match=message):
            rule(*arguments)


def test_strings_stand_for_rules():
    def made(**changes):
        return make_sampler(GenerationSettings(**changes))

    assert made().revision == NoRevision() == made(revision="none").revision
    assert made(revision="threshold:0.4").revision == ThresholdRevision(0.4)
    assert made(revision="token_to_mask").revision == TokenToMaskRevision()
    assert made(revision="token_to_mask:share=0.3,threshold=0.2").revision == TokenToMaskRevision(0.2, 0.3)
    assert made(revision="running_confidence").revision == RunningConfidenceRevision()
    adaptive = made(budget="adaptive:threshold=0.7,floor=0.1,ceiling=0.5")
    assert adaptive.budget == AdaptiveBudget(0.7, 0.1, 0.5)
    assert made(budget="adaptive").budget == AdaptiveBudget()
    assert made(order="history:window=8").order == HistoryOrder(8)
    shifted = made(order="history:temperature=1,schedule=shift:5").order
    assert shifted == HistoryOrder(temperature=1.0, schedule="shift:5")


def test_the_lower_the_adaptive_threshold_the_fewer_the_passes(denoiser):
    passes = [
        len(run(denoiser, Sampler(steps=16, budget=AdaptiveBudget(threshold, 0.0, 1.0))))
        for threshold in (1.0, 0.4, 0.0)
    ]
    assert passes[0] == 16 and passes[2] == 1
    assert all(more >= fewer for more, fewer in pairwise(passes))
