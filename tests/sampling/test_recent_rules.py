"""Rules that compare the last passes, and the budget by entropy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from tiny import TEXTS, generators, tiny_denoiser, tiny_prompts

from smalti.common.low_discrepancy import halton_order
from smalti.common.rules import parse_rule
from smalti.errors import SmaltiError
from smalti.sampling.bounded import EntropyBudget
from smalti.sampling.budgets import BUDGETS
from smalti.sampling.coherence import CoherentBudget, CoherentOrder
from smalti.sampling.guidance import Guidance
from smalti.sampling.kinds import Order
from smalti.sampling.orders import ORDERS, ConfidenceOrder, HaltonOrder
from smalti.sampling.refinement import RareRefinement
from smalti.sampling.reuse import CellReuse
from smalti.sampling.revision import CappedTokenToMaskRevision
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.stability import StableBudget, StableOrder
from smalti.sampling.view import StepView

SIDE = (6, 6)
COMPOSITIONS = [
    Sampler(order=StableOrder(2.0)),
    Sampler(order=CoherentOrder(3, 0.2, spread=True)),
    Sampler(budget=StableBudget(0.6, 0.6, ceiling=0.3), order=StableOrder()),
    Sampler(budget=CoherentBudget(2, 0.5), revision=CappedTokenToMaskRevision(0.5)),
    Sampler(budget=EntropyBudget(0.6)),
]


@pytest.fixture(scope="module")
def denoiser():
    return tiny_denoiser(image_positions="axial", scale=6.0)


def run(denoiser, sampler, count=1, first=0):
    texts = TEXTS[first : first + count]
    prompt = tiny_prompts(denoiser, texts, SIDE)
    seeds = generators(*range(first, first + count))
    return list(sample(denoiser, prompt, grid=SIDE, sampler=sampler, generators=seeds))


def view_of(masked, **changes):
    """A view of one step of one image; zeros for what is not given."""
    n = len(masked)
    row = {name: torch.tensor([values]) for name, values in changes.items() if isinstance(values, list)}
    zeros = torch.zeros(1, n)
    fields = dict(
        index=1,
        steps=4,
        grid=(1, n),
        masked=torch.tensor([masked]).bool(),
        visible=torch.zeros(1, n, dtype=torch.bool),
        tokens=torch.zeros(1, n, dtype=torch.int64),
        candidate=torch.zeros(1, n, dtype=torch.int64),
        probability=zeros,
        current_probability=zeros,
        entropy=zeros,
        noise=None,
        confidence=zeros,
        remaining=torch.tensor([n]),
    )
    return StepView(**{**fields, **{k: v for k, v in changes.items() if not isinstance(v, list)}, **row})


class Passes(SimpleNamespace):
    """Numbers in place of `Recent`'s."""

    def __len__(self):
        return self.passes


@dataclass(frozen=True)
class EntropyOrder(Order):
    """The order by entropy."""

    def priority(self, view):
        """Return minus the entropy."""
        return -view.entropy


class TestLoop:
    @pytest.mark.parametrize("sampler", COMPOSITIONS, ids=range(len(COMPOSITIONS)))
    def test_an_image_does_not_depend_on_its_batch(self, denoiser, sampler):
        sampler = replace(sampler, steps=5, guidance=Guidance(1.0))
        together = run(denoiser, sampler, count=3)
        assert 1 <= len(together) <= 5
        assert not bool((together[-1].tokens == denoiser.config.mask_code).any())
        for index in (0, 2):
            alone = run(denoiser, sampler, first=index)
            assert torch.equal(alone[-1].tokens[0], together[-1].tokens[index])
            assert len(alone) == sum(bool(step.active[index]) for step in together)

    def test_a_pool_of_one_is_the_confidence_order(self, denoiser):
        ours, plain = (
            run(denoiser, Sampler(steps=6, order=order, argmax=True))
            for order in (StableOrder(1.0), ConfidenceOrder())
        )
        assert all(torch.equal(one.tokens, two.tokens) for one, two in zip(ours, plain, strict=True))

    def test_a_window_of_one_is_the_order_by_entropy(self, denoiser):
        ours, plain = (
            run(denoiser, Sampler(steps=6, order=order)) for order in (CoherentOrder(1), EntropyOrder())
        )
        assert all(torch.equal(one.tokens, two.tokens) for one, two in zip(ours, plain, strict=True))

    @pytest.mark.parametrize("budget", [StableBudget(), CoherentBudget(), EntropyBudget(0.2)])
    def test_a_budget_keeps_up_with_its_plan(self, denoiser, budget):
        left, plan = 36, budget.counts(36, 6)
        for step in run(denoiser, Sampler(steps=6, budget=budget)):
            now = int((step.tokens == denoiser.config.mask_code).sum())
            assert now < left and now <= sum(plan[step.index + 1 :])
            left = now
        assert left == 0

    def test_spread_is_the_halton_order_where_nothing_else_chooses(self, denoiser):
        plain = run(denoiser, Sampler(steps=6, order=HaltonOrder()))
        for order in (StableOrder(1.0, spread=True), CoherentOrder(1, spread=True)):
            ours = run(denoiser, Sampler(steps=6, order=order))
            assert all(torch.equal(one.tokens, two.tokens) for one, two in zip(ours, plain, strict=True))

    def test_a_budget_that_does_not_lead_leaves_the_choice_to_the_order(self, denoiser):
        ours = run(denoiser, Sampler(steps=6, budget=EntropyBudget(0.6, lead=False), order=HaltonOrder()))
        halton = halton_order(*SIDE)
        for step in ours:
            shown = int((step.tokens != denoiser.config.mask_code).sum())
            assert set((step.tokens != denoiser.config.mask_code).flatten().nonzero()[:, 0].tolist()) == set(
                halton[:shown]
            )

    def test_with_refinement_and_with_cells_kept(self, denoiser):
        refined = Sampler(steps=6, order=StableOrder(), refinement=RareRefinement(0.5, 0.5))
        assert len(run(denoiser, refined)) == 6
        kept = Sampler(steps=6, order=CoherentOrder(2), reuse=CellReuse(3, warmup=0))
        one, two = run(denoiser, kept), run(denoiser, kept)
        assert torch.equal(one[-1].tokens, two[-1].tokens)


class TestRules:
    def test_stable_order(self):
        """Two of four masked are wanted: three enter the pool, and the one that moved most waits."""
        view = view_of(
            [1, 1, 1, 1, 0],
            probability=[0.9, 0.8, 0.7, 0.1, 1.0],
            remaining=torch.tensor([2]),
            recent=Passes(passes=2, divergence=torch.tensor([[3.0, 1.0, 2.0, 0.0, 0.0]])),
        )
        places = StableOrder(1.5).priority(view)[0]
        assert places[:4].argsort(descending=True).tolist() == [1, 2, 0, 3]

    def test_stable_budget(self):
        view = view_of(
            [1, 1, 1, 1],
            probability=[0.9, 0.8, 0.2, 0.1],
            recent=Passes(passes=2, divergence=torch.tensor([[0.5, 0.1, 0.2, 0.9]])),
        )
        rule = StableBudget(0.5, 0.5, ceiling=1.0)
        assert rule.group(view)[0].tolist() == [False, True, False, False]
        assert rule.remaining(view).tolist() == [3]
        assert not bool(rule.group(replace(view, recent=Passes(passes=1))).any())

    def test_coherent_order_rejects_what_passes_disagree_on(self):
        recent = Passes(
            passes=2,
            entropy=torch.tensor([[0.1, 0.2, 0.3, 0.0]]),
            information=torch.tensor([[0.09, 0.0, 0.0, 0.0]]),
        )
        view = view_of([1, 1, 1, 0], recent=recent)
        assert CoherentOrder(2).priority(view)[0, :3].argsort(descending=True).tolist() == [0, 1, 2]
        assert CoherentOrder(2, 0.4).priority(view)[0, :3].argsort(descending=True).tolist() == [1, 2, 0]

    def test_coherent_budget_takes_what_every_pass_is_sure_of(self):
        entropies = (torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[0.4, 0.1, 0.2, 0.3]]))
        view = view_of([1, 1, 1, 1], recent=Passes(passes=2, entropies=entropies))
        assert CoherentBudget(2, 0.5).group(view)[0].tolist() == [False, True, False, False]
        assert CoherentBudget(2, 0.75).group(view)[0].tolist() == [False, True, True, False]
        assert not bool(CoherentBudget(3, 1.0).group(view).any())

    @pytest.mark.parametrize(("gamma", "count"), [(0.0, 1), (0.5, 2), (1.0, 3), (10.0, 4)])
    def test_entropy_budget(self, gamma, count):
        """The mean is 1 and steps are as many as tokens, so the bound is gamma."""
        view = view_of([1, 1, 1, 1], entropy=[0.4, 2.6, 0.6, 0.4], remaining=torch.tensor([3]))
        rule = EntropyBudget(gamma)
        assert rule.remaining(view).tolist() == [4 - count]
        taken = rule.group(view)[0]
        assert int(taken.sum()) == count and bool(taken[0]) and (count == 4 or not bool(taken[1]))


@pytest.mark.parametrize(
    "text",
    ["stable:pool=0.5", "coherent:window=0", "coherent:reject=1.5", "stable:pool=nan"],
)
def test_wrong_orders(text):
    with pytest.raises(SmaltiError, match="order '(stable|coherent)': (pool|window|reject) must be"):
        parse_rule("order", text, ORDERS)


@pytest.mark.parametrize(
    "text",
    [
        "stable:probable=2",
        "stable:floor=0.5,ceiling=0.1",
        "coherent:share=-1",
        "coherent:window=1.5",
        "entropy_bound:gamma=-1",
        "entropy_bound:shift=0",
    ],
)
def test_wrong_budgets(text):
    with pytest.raises(SmaltiError, match="budget"):
        parse_rule("budget", text, BUDGETS)


def test_flags_are_true_or_false():
    flags = [(StableOrder, "spread"), (CoherentOrder, "spread"), (BUDGETS["verified"], "prefix")]
    flags += [(rule, "lead") for rule in (StableBudget, CoherentBudget, EntropyBudget)]
    for rule, name in flags:
        for value in ("no", None, 2):
            with pytest.raises(SmaltiError, match=f"{name} must be True or False"):
                rule(**{name: value})
